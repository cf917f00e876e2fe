"""Exact gradients of samples: those of the unrolled sampler for every solver and input; memory; refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, grid, sample, scheme
from probkernels.diffusion.solvers import SOLVERS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.diffusion.densities import gaussian, mixture

DIMS = 3


class Net(nn.Module):
    """An MLP of x (B, 3), t (B,) and a condition (B, 4), or none."""

    def __init__(self, width: int = 16, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(DIMS + 1, width), nn.Linear(width, DIMS)
        self.embed, self.dropout = nn.Linear(4, width, bias=False), nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        hidden = self.first(torch.cat([x, t[:, None].to(x)], 1))
        hidden = hidden if cond is None else hidden + self.embed(cond)
        return self.last(self.dropout(self.norm(torch.tanh(hidden))))


def denoiser(pred: str = "v", clip: float | None = None, **options: Any) -> Denoiser:
    torch.manual_seed(1)
    return Denoiser(Net(**options).double(), VP(), pred=pred, clip=clip)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def gradients(model: Denoiser, leaves: dict[str, Tensor], grad: str, **options: Any) -> list[Tensor]:
    """Of a fixed function of the sample, by the leaves and the parameters."""
    given = {**leaves, **options}
    if "guidance" not in given:
        given.pop("uncond", None)
    x = sample(model, given.pop("x_T"), grad=grad, **given)
    targets = [*leaves.values(), *model.parameters()]
    loss = (x * torch.arange(1.0, x.numel() + 1).view_as(x)).sin().sum() + x.square().mean()
    found = torch.autograd.grad(loss, targets, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(targets, found, strict=True)]


def same(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert any(e.any() for e in expected)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).norm() <= tolerance * max(float(e.norm()), 1e-6)


def everything() -> dict[str, Tensor]:
    w = torch.tensor([1.5, 2.5], dtype=torch.float64, requires_grad=True)
    return {"x_T": leaf(2, DIMS), "cond": leaf(2, 4, seed=1), "uncond": leaf(1, 4, seed=2), "guidance": w}


@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_the_unrolled_sampler_for_every_input(solver: str) -> None:
    """x_T, conditions, guidance, noises, times (and so every coefficient) and parameters."""
    model, leaves = denoiser(), everything()
    leaves["times"] = grid(VP(t_min=0.02), 5).requires_grad_()
    rows = scheme(model.process, leaves["times"].detach(), solver)
    if any(rows.draws):
        leaves["noise"] = leaf(rows.steps, 2, DIMS, seed=3)
    got = gradients(model, leaves, "exact", solver=solver)
    same(got, gradients(model, leaves, "autograd", solver=solver))


@pytest.mark.parametrize("pred", ["eps", "x0", "flow", "score", "edm"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "unipc"])
def test_every_prediction_and_clipping(pred: str, solver: str) -> None:
    model, leaves = denoiser(pred, clip=0.5), {"x_T": leaf(2, DIMS)}
    how = {"solver": solver, "times": grid(VP(t_max=0.9), 5)}
    same(gradients(model, leaves, "exact", **how), gradients(model, leaves, "autograd", **how))


@pytest.mark.parametrize("solver", ["ddim", "heun", "ancestral"])
def test_bytes_of_graphs_change_nothing_but_calls(solver: str) -> None:
    model, leaves = denoiser(), everything()
    how = {"solver": solver, "steps": 6}
    expected, calls = None, []
    for store in ("states", 0, 3000, 10**9):
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        handle = model.net.register_forward_hook(counted)
        got = gradients(model, leaves, "exact", store=store, generator=torch.Generator().manual_seed(0), **how)
        handle.remove()
        expected = expected or got
        same(got, expected)
        calls.append(count)
    assert calls[0] == calls[1] == 2 * calls[3]
    assert calls[3] < calls[2] < calls[0]


def test_drawn_noise_is_drawn_again() -> None:
    model, leaves = denoiser(), {"x_T": leaf(2, DIMS)}
    results = [
        gradients(model, leaves, mode, solver="ancestral", steps=5, generator=torch.Generator().manual_seed(3))
        for mode in ("exact", "autograd")
    ]
    same(*results)


def test_last_k_keeps_the_linear_path_alone() -> None:
    model, leaves = denoiser(), {"x_T": leaf(2, DIMS)}
    times = grid(VP(), 6)
    how = {"solver": "ddim", "times": times}
    same(gradients(model, leaves, "exact", last_k=6, **how), gradients(model, leaves, "exact", **how))
    x = sample(model, leaves["x_T"], grad="exact", last_k=1, **how)
    got = torch.autograd.grad(x.sum(), leaves["x_T"])[0]
    before = sample(model, leaves["x_T"].detach(), solver="ddim", times=times[:-1]).requires_grad_()
    last = sample(model, before, solver="ddim", times=times[-2:], grad="autograd")
    path = VP().alpha(times[-2]) / VP().alpha(times[0])  # the linear part of DDIM in eps
    expected = torch.autograd.grad(last.sum(), before)[0] * path
    assert torch.allclose(got, expected, rtol=1e-12)


def test_saved_bytes_grow_by_one_state_a_call() -> None:
    """And are those of the unrolled sampler by far not."""

    def saved(steps: int, mode: str, **how: int) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            x = sample(model, x_T, solver="dpmpp_2m", steps=steps, grad=mode, **how)
            assert x.requires_grad
        return sum(sizes.values())

    model, x_T = denoiser(), leaf(64, DIMS)
    state = x_T.numel() * 8
    assert saved(20, "exact") - saved(10, "exact") == 10 * state
    assert saved(100, "exact") - saved(20, "exact") == 80 * state
    assert saved(20, "autograd") - saved(10, "autograd") > 30 * state
    assert saved(100, "exact", last_k=5) == saved(10, "exact", last_k=5) == saved(5, "exact")


# --- closed forms ---


@pytest.mark.parametrize(
    ("steps", "kind", "slope"),
    [(10, "t", 0.3743710455), (20, "t", 0.4339415882), (50, "t", 0.4726279205), (100, "t", 0.4861643969),
     (10, "lambda", 0.3936467576), (20, "lambda", 0.4436599832), (50, "lambda", 0.4767047046)],
)  # fmt: skip
def test_slopes_of_ddim_on_gaussian_data(steps: int, kind: str, slope: float) -> None:
    x_T = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    sample(gaussian(), x_T, solver="ddim", times=grid(VP(t_min=1e-3), steps, kind), grad="exact").backward()
    assert float(x_T.grad) == pytest.approx(slope, abs=1e-10)


@pytest.mark.parametrize(
    ("solver", "kind", "slope"),
    [("ddim", "t", 0.488850458462), ("ab2", "t", 0.520566291469), ("ab3", "t", 0.540678394147),
     ("dpmpp_2m", "t", 0.639067735286), ("alf", "t", 0.549970915244), ("obelm", "t", 0.532392279017),
     ("ddim", "lambda", 0.523920133781), ("ab2", "lambda", 0.540334894037), ("ab3", "lambda", 0.544307458381),
     ("dpmpp_2m", "lambda", 0.557627805077), ("alf", "lambda", 0.551662072334),
     ("obelm", "lambda", 0.545108561726)],
)  # fmt: skip
def test_slopes_on_a_mixture(solver: str, kind: str, slope: float) -> None:
    x_T = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    sample(mixture(), x_T, solver=solver, times=grid(VP(t_min=1e-3), 20, kind), grad="exact").backward()
    assert float(x_T.grad) == pytest.approx(slope, abs=1e-10)


# --- use ---


def test_conditions_in_structures_and_made_by_other_nets() -> None:
    class Structured(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return super().forward(x, t, cond["a"][0] * cond["b"])

    torch.manual_seed(0)
    model, encoder = Denoiser(Structured().double(), VP(), pred="v"), nn.Linear(4, 4).double()
    found = []
    for mode in ("exact", "autograd"):
        text = encoder(torch.ones(2, 4, dtype=torch.float64))
        x = sample(model, leaf(2, DIMS).detach(), solver="ab2", steps=4, cond={"a": (text,), "b": text}, grad=mode)
        found.append(torch.autograd.grad(x.sum(), [*encoder.parameters()]))
    same(list(found[0]), list(found[1]))


def test_frozen_nets_and_nothing_to_differentiate() -> None:
    model = denoiser().requires_grad_(False)
    x_T = leaf(2, DIMS)
    sample(model, x_T, solver="ddim", steps=3, grad="exact").sum().backward()
    assert x_T.grad.any() and all(p.grad is None for p in model.parameters())
    assert not sample(model, x_T.detach(), solver="ddim", steps=3, grad="exact").requires_grad


def test_dropout_is_replayed() -> None:
    """The gradient is that of the sample drawn: it predicts the difference to a near neighbor with the same masks."""
    model, x_T = denoiser(dropout=0.5).train(), leaf(2, DIMS)

    def draw(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return sample(model, x, solver="ab2", steps=5, grad="exact").sum()

    torch.autograd.gradcheck(draw, (x_T,), eps=1e-6, atol=1e-6)
    assert draw(x_T) == draw(x_T)
    for store in (0, 10**9):
        torch.manual_seed(5)
        x = sample(model, x_T, solver="ab2", steps=5, grad="exact", store=store)
        assert torch.equal(*(torch.autograd.grad(y, x_T)[0] for y in (x.sum(), draw(x_T))))


def test_checkpoints_inside_the_net_and_compilation() -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return checkpoint(super().forward, x, t, cond, use_reentrant=False)

    leaves, how = everything(), {"solver": "ab3", "steps": 4}
    expected = gradients(denoiser(), leaves, "exact", **how)
    plain = denoiser()
    model = Denoiser(Checkpointed().double(), VP(), pred="v")
    model.load_state_dict(plain.state_dict())
    same(gradients(model, leaves, "exact", **how), expected)
    torch._dynamo.reset()
    compiled = Denoiser(torch.compile(plain.net, backend="aot_eager"), VP(), pred="v")
    same(gradients(compiled, leaves, "exact", **how), expected)


def test_autocast_is_entered_again_in_the_backward_pass() -> None:
    model, x_T = denoiser().float(), leaf(2, DIMS).detach().float().requires_grad_()
    results = []
    for mode in ("exact", "autograd"):
        with torch.autocast("cpu", torch.bfloat16):
            x = sample(model, x_T, solver="ab2", steps=4, grad=mode)
        results.append([x.detach(), *torch.autograd.grad(x.sum(), [x_T, *model.net.first.parameters()])])
    same(results[0], results[1], 1e-2)
    assert torch.equal(results[0][0], results[1][0])


def test_gradients_add_up_in_two_runs_of_one_graph() -> None:
    model, x_T = denoiser(), leaf(2, DIMS)
    x = sample(model, x_T, solver="ab2", steps=4, grad="exact", store=10**9)
    first = torch.autograd.grad(x.sum(), x_T, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(x.sum(), x_T)[0], first)


def test_parameters_changed_in_between_are_noticed() -> None:
    model, x_T = denoiser(), leaf(2, DIMS)
    x = sample(model, x_T, solver="ddim", steps=3, grad="exact")
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


# --- refusals ---


def test_tensors_that_are_not_declared_are_refused() -> None:
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    class Closure(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return scale * super().forward(x, t, cond)

    model = Denoiser(Closure().double(), VP(), pred="v")
    with pytest.raises(ValueError, match=r"sample: argument 'model': expected a net whose tensors.*register it"):
        sample(model, leaf(2, DIMS), solver="ddim", steps=3, grad="exact")
    model.net.scale = nn.Parameter(scale.detach())
    sample(denoiser(), leaf(2, DIMS), solver="ddim", steps=3, grad="exact")


def test_infinity_names_the_step() -> None:
    class Breaks(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return super().forward(x, t, cond) * torch.where(t[:, None] < 0.5, torch.nan, 1.0)

    model = Denoiser(Breaks().double(), VP(), pred="v")
    with pytest.raises(FloatingPointError, match=r"NaN or infinity in step 3, at t = 0\.40"):
        sample(model, leaf(2, DIMS), solver="ddim", times=grid(VP(t_min=1e-3), 5), grad="exact")


def test_second_derivatives_and_batch_norm_are_refused() -> None:
    x_T = leaf(2, DIMS)
    x = sample(denoiser(), x_T, solver="ddim", steps=3, grad="exact")
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(x.sum(), x_T, create_graph=True)
    normed = denoiser(norm=True)
    with pytest.raises(ValueError, match=r"batch normalization in eval mode, got net.norm in training"):
        sample(normed, x_T, solver="ddim", steps=3, grad="exact")
    same(*(gradients(normed.eval(), {"x_T": x_T}, mode, solver="ddim", steps=3) for mode in ("exact", "autograd")))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"store": "disk"}, ValueError, "'store': expected 'states', 'revolve', 'revolve=S'"),
        ({"store": -1}, ValueError, "'store'"),
        ({"store": "revolve=0"}, ValueError, "'store'"),
        ({"store": True}, ValueError, "'store'"),
        ({"last_k": 0}, ValueError, "'last_k': expected at least one step"),
        ({"grad": "autograd", "last_k": 1}, ValueError, "'grad': expected 'exact', as 'store' or 'last_k'"),
        ({"grad": "magic"}, ValueError, "'grad': expected one of"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sample(denoiser(), leaf(2, DIMS), **{"solver": "ddim", "steps": 3, "grad": "exact", **change})


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_each_row_has_its_own_guidance(solver: str) -> None:
    """Rows with other weights do not matter, and each weight has its gradient, also where a coefficient is 0."""
    model, x, cond = denoiser(), leaf(3, DIMS), leaf(3, 4, seed=1)
    how = {"solver": solver, "steps": 4, "uncond": torch.zeros(1, 4).double()}
    weights = torch.tensor([1.0, 0.0, -2.5], dtype=torch.float64, requires_grad=True)
    found = {}
    for grad in ("autograd", "exact"):
        y = sample(model, x, cond=cond, guidance=weights, grad=grad, **how)
        found[grad] = torch.autograd.grad(y.square().sum(), [x, cond, weights])
        y.add_(1)  # the sample is no view
    for exact, autograd in zip(found["exact"], found["autograd"], strict=True):
        assert torch.allclose(exact, autograd, rtol=1e-12, atol=1e-14)
    rows = [
        sample(model, x[i : i + 1], cond=cond[i : i + 1], guidance=w, **how) for i, w in enumerate(weights.tolist())
    ]
    assert torch.allclose(sample(model, x, cond=cond, guidance=weights, **how), torch.cat(rows), rtol=1e-12)
