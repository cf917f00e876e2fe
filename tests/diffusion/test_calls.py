"""What a network is given and gives: tensors of its own, half precision, outputs that are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from probkernels.diffusion import (
    VP,
    Denoiser,
    FlowMatching,
    VPDiscrete,
    bits_per_dim,
    decode,
    dsm_loss,
    encode,
    grid,
    hybrid_loss,
    invert,
    learned_ancestral,
    log_prob,
    predictor_corrector,
    sample,
    vlb_term,
)
from probkernels.diffusion.denoiser import PREDICTIONS
from probkernels.diffusion.solvers.build import SOLVERS
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or (3, 4), generator=torch.Generator().manual_seed(seed))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


class Net(nn.Module):
    """Of x, t and a condition, all of which it overwrites if ``writes``."""

    def __init__(self, writes: bool = False, middle: nn.Module | None = None, width: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.writes, self.width = nn.Linear(4, 4), writes, width
        self.middle = middle if middle is not None else nn.Identity()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.writes:
            x, t = nn.functional.silu(x, inplace=True), t.mul_(0.5)
            cond = None if cond is None else cond.add_(1)
        else:
            x, t, cond = nn.functional.silu(x), t * 0.5, None if cond is None else cond + 1
        x = self.middle(self.layer(x)) + t.to(x)[:, None]
        return torch.cat([x if cond is None else x + cond] * self.width, 1)


def pair(process: Any, width: int = 1, **how: Any) -> tuple[Denoiser, Denoiser]:
    """Two denoisers of the same function, of which the first writes to what it is given."""
    how.setdefault("pred", "v")
    nets = Net(True, width=width), Net(False, width=width)
    return tuple(Denoiser(net, process, variance=width == 2, **how) for net in nets)  # type: ignore[return-value]


# --- tensors of its own ---


def calls_of_denoisers() -> dict[str, Callable[[Denoiser, Tensor, Tensor], Any]]:
    guide = {"uncond": torch.zeros(1, 4), "guidance": 2.0}
    t = torch.full((3,), 0.5, dtype=torch.float64)
    return {
        "forward": lambda m, x, c: m(x, t, c),
        "eps": lambda m, x, c: m.eps(x, t, c),
        "x0": lambda m, x, c: m.x0(x, t, c),
        "v": lambda m, x, c: m.v(x, 0.5, c),
        "score": lambda m, x, c: m.score(x, t, c, **guide),
        "encode": lambda m, x, c: encode(m, x, steps=4, cond=c),
        "invert": lambda m, x, c: invert(m, x, steps=4, cond=c).y,
        "decode": lambda m, x, c: decode(m, invert(m, x, steps=4, cond=c), cond=c),
        "log_prob": lambda m, x, c: log_prob(m, x, c, steps=4),
        "dsm_loss": lambda m, x, c: dsm_loss(m, x, c, t=t, noise=noise(seed=5)),
        "predictor_corrector": lambda m, x, c: predictor_corrector(m, x, grid(VP(), 4), generator=seeded(), cond=c),
        "guided": lambda m, x, c: sample(m, x, steps=4, cond=c, **guide),
        "autograd": lambda m, x, c: sample(m, x, steps=4, cond=c, grad="autograd"),
        "exact": lambda m, x, c: sample(m, x, steps=4, cond=c, grad="exact"),
        "reversible": lambda m, x, c: sample(m, x, solver="alf", steps=4, cond=c, grad="reversible"),
    }


@pytest.mark.parametrize("name", calls_of_denoisers())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_net_that_writes_to_its_arguments_changes_nothing(name: str, dtype: torch.dtype) -> None:
    call = calls_of_denoisers()[name]
    writing, clean = (model.to(dtype) for model in pair(VP(), clip=3.0))
    x, cond = noise().to(dtype), noise(seed=2).to(dtype)
    kept = x.clone(), cond.clone()
    assert torch.equal(call(writing, x, cond), call(clean, x, cond))
    assert torch.equal(x, kept[0]) and torch.equal(cond, kept[1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_net_that_writes_with_every_solver(solver: str) -> None:
    writing, clean = pair(VP())
    x = noise()
    samples = [sample(m, x, solver=solver, steps=4, grid="lambda", generator=seeded()) for m in (writing, clean)]
    assert torch.equal(*samples) and torch.equal(x, noise())


def test_a_net_that_writes_with_learned_variances_and_bounds() -> None:
    writing, clean = pair(VPDiscrete.linear(10), width=2)
    x, times = noise().clamp(-1, 1), grid(VPDiscrete.linear(10), 5)
    index, z = torch.tensor([0, 4, 9]), noise(seed=3)
    for call in (
        lambda m: learned_ancestral(m, x, times, generator=seeded()),
        lambda m: vlb_term(m, x, index, noise=z, variance="learned"),
        lambda m: bits_per_dim(m, x, generator=seeded()),
        lambda m: hybrid_loss(m, x, generator=seeded()),
    ):
        assert torch.equal(call(writing), call(clean)) and torch.equal(x, noise().clamp(-1, 1))


def test_gradients_of_a_net_that_writes() -> None:
    found = []
    for model, grad in zip((*pair(VP()), pair(VP())[0]), ("autograd", "autograd", "exact"), strict=True):
        x, cond = noise().requires_grad_(), noise(seed=2).requires_grad_()
        sample(model, x, solver="ddim", steps=4, cond=cond, grad=grad).square().sum().backward()
        found.append((x.grad, cond.grad, model.net.layer.weight.grad))
    for other in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found[0], other, strict=True))


# --- half precision ---


class Shrinks(nn.Module):
    """0.98 x, computed in ``dtype``."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (0.98 * x.to(self.dtype or x.dtype)).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim", "unipc", "ancestral"])
def test_half_precision_is_that_of_the_net_alone(dtype: torch.dtype, clip: float | None, solver: str) -> None:
    """At the start of the cosine chain the conversion divides by 5e-5; the right value is that of float32."""
    x = torch.linspace(-5, 5, 101)[:, None].to(dtype)
    how = {"solver": solver, "steps": 20, "grid": "trailing", "generator": seeded()}
    got = sample(Denoiser(Shrinks(), VPDiscrete.cosine(), clip=clip), x, **how)
    how["generator"] = seeded()
    right = sample(Denoiser(Shrinks(dtype), VPDiscrete.cosine(), clip=clip), x.float(), **how)
    assert got.dtype is dtype and got.isfinite().all()
    assert torch.equal(got, right.to(dtype))


def test_half_precision_is_rounded_once() -> None:
    model, x, t = Denoiser(Shrinks(), VPDiscrete.cosine(), clip=2.0), noise(200, 2).half() * 3, 1.0
    for name in ("eps", "x0", "v", "score"):
        wide = getattr(Denoiser(Shrinks(), model.process, clip=2.0), name)(x.float(), t)
        got = getattr(model, name)(x, t)
        assert got.dtype is torch.float16
        assert torch.allclose(got.float(), wide, rtol=2e-3, atol=2e-3), name


class Conditioned(nn.Module):
    """Its condition times x, in half precision whatever x has."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (cond.to(torch.float16) * x.to(torch.float16)).to(x.dtype)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("pred", PREDICTIONS)
def test_half_precision_is_that_of_the_net_in_every_prediction(kind: str, pred: str) -> None:
    """The very numbers of float32 around the net, rounded at the end; with guidance, which multiplies rounding by w."""
    x, c, u = noise(200, 2).half(), torch.tensor(0.9).half(), torch.tensor(0.7).half()
    model = Denoiser(Conditioned(), FlowMatching(), pred=pred)
    for guide in ({}, {"uncond": u, "guidance": 7.3}):
        for t in (0.4, torch.linspace(0.1, 0.9, 200)):
            got, right = (getattr(model, kind)(state, t, c.expand(200, 1), **guide) for state in (x, x.float()))
            assert got.dtype is torch.float16
            if pred != "edm":  # whose net is given a rounded c_in x
                assert torch.equal(got, right.half())
            assert (got - right).abs().max() < 1e-2 * right.abs().max()


def test_half_precision_of_guidance() -> None:
    """Of outputs alone, and with variance parts."""
    x, cond, null = noise(200, 2).half(), torch.full((200, 1), 0.9).half(), torch.full((1, 1), 0.7).half()
    c, u = ((w * x).float() for w in (cond, null))
    right = (u + 7.3 * (c - u)).half()
    guide = {"uncond": null, "guidance": 7.3}
    assert torch.equal(Denoiser(Conditioned(), VP())(x, 0.5, cond, **guide), right)

    class Two(Conditioned):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return torch.cat([super().forward(x, t, cond), x], 1)

    assert torch.equal(Denoiser(Two(), VP(), variance=True).both(x, 0.5, cond, **guide)[0].half(), right)


def test_half_precision_of_edm_nets() -> None:
    seen = []

    class Seen(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(x)
            return 0 * x

    x = torch.tensor([[5.0], [-5.0]]).half()
    model = Denoiser(Seen(), VPDiscrete.cosine(), pred="edm")  # 1 / alpha is 2e4, x / alpha 1e5
    assert model.x0(x, 1.0).isfinite().all() and seen[0].dtype is torch.float16
    assert torch.allclose(seen[0].float(), model.process.sigma(1.0).float() * x.float(), rtol=1e-3)


@pytest.mark.parametrize("grad", ["autograd", "exact", "reversible"])
def test_gradients_in_half_precision(grad: str) -> None:
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        x = noise().to(torch.bfloat16).to(dtype).requires_grad_()
        model = Denoiser(Net().to(dtype), VP(), pred="v")
        y = sample(model, x, solver="alf", steps=4, grad=grad)
        assert y.dtype is dtype
        y.float().square().sum().backward()
        found.append(x.grad.float())
    assert (found[0] - found[1]).norm() < 0.03 * found[1].norm()


def test_half_precision_elsewhere() -> None:
    model, x = Denoiser(Net().bfloat16(), VP(), pred="v"), noise().bfloat16()
    latent = invert(model, x, steps=4)
    assert latent.x.dtype is torch.bfloat16 and torch.equal(decode(model, latent), x)
    assert encode(model, x, steps=4).dtype is torch.bfloat16
    assert predictor_corrector(model, x, grid(VP(), 4)).dtype is torch.bfloat16
    right = log_prob(Denoiser(Net(), VP(), pred="v"), x.float(), steps=8)
    assert torch.allclose(log_prob(model, x, steps=8), right, rtol=0.02)
    chain = VPDiscrete.linear(20)
    narrow, wide = (Denoiser(Net(width=2).to(d), chain, variance=True) for d in (torch.float16, torch.float32))
    x, index = noise().clamp(-1, 1).half(), torch.tensor([0, 5, 19])
    for variance in ("posterior", "learned"):
        how = {"noise": noise(seed=4).half(), "variance": variance}
        got, right = vlb_term(narrow, x, index, **how), vlb_term(wide, x.float(), index, **how)
        assert got.dtype is torch.float32 and torch.allclose(got, right, rtol=0.02)
    assert learned_ancestral(narrow, x, grid(chain, 5), generator=seeded()).dtype is torch.float16


# --- outputs ---


@dataclass
class Output:
    sample: Tensor


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda x: (x, x), TypeError, "a tensor as output, got an output of type tuple.*alone"),
        (lambda x: Output(x), TypeError, "type Output.*net.*sample"),
        (lambda x: x.to(torch.complex64), TypeError, "floating-point numbers, got torch.complex64.*view_as_real"),
        (lambda x: x.long(), TypeError, "got torch.int64"),
        (lambda x: x > 0, TypeError, "got torch.bool"),
        (lambda x: x[:, :1], ValueError, r"shape \(3, 4\), got shape \(3, 1\)"),
    ],
)
def test_outputs_that_are_refused(change: Callable[[Tensor], Any], error: type[Exception], text: str) -> None:
    class Changed(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Any:
            return change(x)

    model = Denoiser(Changed(), VP(), pred="v")
    for call in (
        lambda: sample(model, noise(), steps=2),
        lambda: model.x0(noise(), 0.5),
        lambda: dsm_loss(model, noise()),
        lambda: log_prob(model, noise(), steps=2),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_outputs_of_another_precision_keep_the_dtype_of_x(dtype: torch.dtype) -> None:
    class Changed(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return (0.5 * x).to(dtype)

    model = Denoiser(Changed(), VP(), pred="v")
    assert model.x0(noise(), 0.5).dtype is torch.float32
    assert sample(model, noise(), steps=2).dtype is torch.float32
