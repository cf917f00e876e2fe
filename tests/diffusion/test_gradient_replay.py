"""Nets that change between the forward and the backward pass, or with every call: autograd's gradient, or an error."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.diffusion import VP, Denoiser, grid, sample
from torch import Tensor, nn

from tests.diffusion.test_gradients import DIMS, leaf, same

MODES: dict[str, dict[str, Any]] = {
    "exact": {"grad": "exact"},
    "bytes": {"grad": "exact", "store": 1500},
    "revolve": {"grad": "exact", "store": "revolve=1"},
    "reversible": {"grad": "reversible"},
}
ODE = {"grad": "continuous", "solver": "ddim"}
TIMES = grid(VP(t_min=0.02), 4)


class Net(nn.Module):
    """An MLP with ``middle`` in its midst, and ``extra`` added to what that gives."""

    def __init__(self, middle: nn.Module | None = None, extra: Callable[[Tensor], Any] = lambda h: 0.0) -> None:
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(DIMS + 1, 8), nn.Linear(8, DIMS), middle or nn.Identity()
        self.register_buffer("shift", torch.zeros(8))
        self.extra, self.scale, self.calls, self.factors = extra, 1.0, 0, [1.0]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.middle(torch.tanh(self.first(torch.cat([x, t[:, None].to(x)], 1)))) + self.shift
        return self.scale * math.prod(self.factors) * self.last(hidden + self.extra(hidden))


def denoiser(middle: nn.Module | None = None, extra: Callable[[Tensor], Any] = lambda h: 0.0) -> Denoiser:
    torch.manual_seed(1)
    return Denoiser(Net(middle, extra).double(), VP(), pred="v")


def grads(model: Denoiser, how: dict[str, Any], between: Callable[[], object] = lambda: None) -> list[Tensor]:
    """Of x_T and the parameters, accumulated as an optimizer would find them."""
    torch.manual_seed(5)
    x_T = leaf(2, DIMS)
    model.zero_grad()
    x = sample(model, x_T, **{"solver": "alf", "times": TIMES, **how})
    between()
    x.square().sum().backward()
    found = [x_T.grad, *(p.grad for p in model.parameters())]
    return [torch.zeros(()) if g is None else g.clone() for g in found]


def equal(make: Callable[[], Denoiser], how: dict[str, Any], between: Callable[[Denoiser], object]) -> None:
    """Those of autograd, for two nets made alike."""
    found = []
    for mode in (how, {"grad": "autograd"}):
        model = make()
        found.append(grads(model, mode, lambda model=model: between(model)))
    same(*found, 1e-8 if how["grad"] == "reversible" else 1e-12)


@pytest.fixture(params=MODES, name="how")
def _how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


# --- what is replayed ---


@pytest.mark.parametrize("middle", [lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.5)], ids=["norm", "dropout"])
def test_training_mode_switched_on(how: dict[str, Any], middle: Callable[[], nn.Module]) -> None:
    model = denoiser(middle()).eval()
    equal(lambda: model.eval(), how, lambda m: m.train())
    assert model.net.middle.training  # it is left as the caller set it


def test_training_mode_switched_off_with_dropout(how: dict[str, Any]) -> None:
    equal(lambda: denoiser(nn.Dropout(0.5)).train(), how, lambda m: m.eval())


class Noisy(nn.Module):
    """Adds noise from a generator of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.own = {"torch": torch.Generator().manual_seed(3), "numpy": np.random.default_rng(3),
                    "legacy": np.random.RandomState(3), "python": random.Random(3)}[kind]  # fmt: skip

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "torch":
            return h * torch.rand(h.shape, generator=self.own, dtype=h.dtype)
        return h * (
            self.own.uniform(0.5, 2.0) if self.kind == "python" else torch.from_numpy(self.own.uniform(size=h.shape))
        )


@pytest.mark.parametrize("kind", ["torch", "numpy", "legacy", "python"])
def test_generators_of_the_net(how: dict[str, Any], kind: str) -> None:
    equal(lambda: denoiser(Noisy(kind)), how, lambda m: None)


@pytest.mark.parametrize(
    ("draw", "seed"),
    [(random.random, random.seed), (lambda: float(np.random.rand()), np.random.seed),
     (lambda: torch.rand(8, dtype=torch.float64), torch.manual_seed)],
    ids=["python", "numpy", "torch"],
)  # fmt: skip
def test_global_generators(how: dict[str, Any], draw: Callable[[], Any], seed: Callable[[int], Any]) -> None:
    def make() -> Denoiser:
        seed(7)
        return denoiser(extra=lambda h: h * draw())

    equal(make, how, lambda m: draw())
    seed(7)  # the backward pass leaves them where they were
    before = [grads(make(), mode)[0] is not None and torch.as_tensor(draw()) for mode in (how, {"grad": "autograd"})]
    assert torch.equal(*before)


def test_functional_call(how: dict[str, Any]) -> None:
    """The gradient reaches the values that the net was called with, not those it has later."""
    model = denoiser()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, mode: dict[str, Any]) -> Tensor:
            return sample(self.model, x, **{"solver": "alf", "times": TIMES, **mode})

    whole, found = Whole(), []
    for mode in (how, {"grad": "autograd"}):
        values = {name: (2 * p.detach()).requires_grad_() for name, p in whole.named_parameters()}
        x = torch.func.functional_call(whole, values, (leaf(2, DIMS).detach(), mode))
        found.append(list(torch.autograd.grad(x.square().sum(), list(values.values()))))
    same(*found, 1e-8 if how["grad"] == "reversible" else 1e-12)


def test_replaced_parameters_and_flags(how: dict[str, Any]) -> None:
    def replace(model: Denoiser) -> None:
        model.net.last.weight = nn.Parameter(torch.zeros_like(model.net.last.weight))

    found = []
    for mode in (how, {"grad": "autograd"}):
        model = denoiser()
        kept = model.net.last.weight
        grads(model, mode, lambda model=model: replace(model))
        found.append([kept.grad])
        assert model.net.last.weight.grad is None
    same(*found, 1e-8 if how["grad"] == "reversible" else 1e-12)
    equal(denoiser, how, lambda m: m.net.last.weight.requires_grad_(False))


# --- parameter hooks run once ---


@pytest.mark.parametrize("how", [*MODES.values(), {"grad": "exact", "store": 10**9}, ODE], ids=[*MODES, "all", "ode"])
def test_hooks_of_parameters_run_once(how: dict[str, Any]) -> None:
    """Halving and clamping: what autograd makes of the whole gradient. Of the ODE's, which is another one, likewise."""
    whole = grads(denoiser(), how)
    model, runs = denoiser(), 0

    def halve(grad: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return grad / 2

    model.net.first.weight.register_hook(halve)
    model.net.last.weight.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
    expected = [
        {"net.first.weight": g / 2, "net.last.weight": g.clamp(-0.01, 0.01)}.get(name, g)
        for name, g in zip(["x_T", *(name for name, _ in model.named_parameters())], whole, strict=True)
    ]
    same(grads(model, how), expected)
    assert runs == 1
    if how["grad"] != "continuous":
        same(expected, grads(model, {"grad": "autograd"}), 1e-8 if how["grad"] == "reversible" else 1e-12)


def test_tied_modules(how: dict[str, Any]) -> None:
    def make() -> Denoiser:
        torch.manual_seed(2)
        shared = nn.Linear(8, 8)
        other = nn.Linear(8, 8)
        other.weight = shared.weight
        model = denoiser(nn.Sequential(shared, nn.Tanh(), other, shared))
        shared.weight.register_hook(lambda grad: grad / 2)
        return model

    equal(make, how, lambda m: None)


class Listed(nn.Module):
    """Finds its weight in a list, not in its module's parameters, as recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8, dtype=torch.float64))
        self.held = [self.weight]

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.held[0]


def test_other_references_to_parameters(how: dict[str, Any]) -> None:
    equal(lambda: denoiser(Listed()), how, lambda m: None)
    equal(lambda: denoiser(nn.Sequential(nn.LSTM(8, 8), Head())), how, lambda m: None)
    model = denoiser(Listed())
    model.net.middle.weight.register_hook(lambda grad: grad / 2)
    with pytest.raises(ValueError, match=r"'model': expected parameters without hooks.*got one on net\.middle\.weight"):
        grads(model, how)


class Head(nn.Module):
    def forward(self, pair: tuple[Tensor, Any]) -> Tensor:
        return pair[0]


# --- what raises, and says what changed ---


def written(model: Denoiser, name: str) -> None:
    with torch.no_grad():
        model.get_parameter(name).mul_(2) if name.endswith("weight") else model.get_buffer(name).add_(1)


def frozen() -> Denoiser:
    model = denoiser()
    model.net.last.weight.requires_grad_(False)
    return model


def enclosing() -> Denoiser:
    """Depends on a list that no module holds."""
    return denoiser(extra=lambda h, outside=[0.0]: outside[-1])


CHANGES: dict[str, tuple[Callable[[], Denoiser], Callable[[Denoiser], object], str]] = {
    "frozen weight": (
        frozen,
        lambda m: written(m, "net.last.weight"),
        r"'net\.last\.weight' was modified by an inplace",
    ),
    "buffer": (denoiser, lambda m: written(m, "net.shift"), r"'net\.shift' was modified by an inplace"),
    "hook added": (denoiser, lambda m: m.net.first.register_forward_hook(lambda *_: None), r"hooks.*'net\.first'"),
    "forward": (denoiser, lambda m: setattr(m.net.first, "forward", lambda x: x), r"forward\(\) of 'net\.first'"),
    "module": (
        denoiser,
        lambda m: setattr(m.net, "middle", nn.Tanh()),
        r"module 'net\.middle' was removed or replaced",
    ),
    "closure": (enclosing, lambda m: m.net.extra.__defaults__[0].append(1.0), "other outputs|did not end at x_T"),
    "data": (denoiser, lambda m: m.net.shift.data.add_(1), "other outputs|did not end at x_T"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_raise(how: dict[str, Any], change: str) -> None:
    make, between, text = CHANGES[change]
    model = make()
    with pytest.raises(RuntimeError, match=text):
        grads(model, how, lambda: between(model))


@pytest.mark.parametrize("change", ["frozen weight", "buffer", "hook added", "closure"])
def test_changes_raise_for_the_ode(change: str) -> None:
    make, between, text = CHANGES[change]
    model = make()
    with pytest.raises(RuntimeError, match=text):
        grads(model, ODE, lambda: between(model))


def test_a_hook_that_is_removed_raises(how: dict[str, Any]) -> None:
    model = denoiser()
    handle = model.net.first.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(RuntimeError, match=r"sample: changed since the forward pass: hooks.*'net\.first'"):
        grads(model, how, handle.remove)


def test_x_T_and_noise_changed_in_place(how: dict[str, Any]) -> None:
    x_T = leaf(2, DIMS).detach()
    x = sample(denoiser(), x_T, **{"solver": "alf", "times": TIMES, **how})
    x_T.add_(1)
    with pytest.raises(RuntimeError, match="'x_T' was modified by an inplace operation"):
        x.sum().backward()
    if how["grad"] == "exact":
        noise = leaf(4, 2, DIMS).detach()
        x = sample(denoiser(), x_T, **{"solver": "ancestral", "times": TIMES, "noise": noise, **how})
        noise.add_(1)
        with pytest.raises(RuntimeError, match="'noise' was modified by an inplace operation"):
            x.sum().backward()


def test_counters_and_caches_raise(how: dict[str, Any]) -> None:
    """What a call leaves for the next one is not there again."""
    model = denoiser()
    model.net.extra = lambda h: h * model.net.calls
    with pytest.raises(RuntimeError, match=r"'net\.calls' from"):
        grads(model, how)
    assert grads(denoiser(), how)  # one that only counts its calls is fine


@pytest.mark.parametrize("old", [False, True], ids=["parametrization", "hook"])
def test_spectral_norm_in_training(how: dict[str, Any], old: bool) -> None:
    normed = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
    model = denoiser(normed(nn.Linear(8, 8)))
    with pytest.raises(
        ValueError, match=r"'model': expected a net that leaves its buffers.*net\.middle\..*model\.eval"
    ):
        grads(model.train(), how)
    equal(lambda: model.eval(), how, lambda m: None)


def test_a_callback_that_changes_the_net(how: dict[str, Any]) -> None:
    model = denoiser(nn.Dropout(0.5)).eval()
    with pytest.raises(RuntimeError, match=r"changed during the run: .*training'"):
        grads(model, {**how, "callback": lambda n, x: model.train() and None})


def test_closures_that_act_late_are_refused() -> None:
    scale, model = torch.ones((), dtype=torch.float64, requires_grad=True), denoiser()
    inner = model.net.forward
    model.net.forward = lambda x, t: inner(x, t) * (scale if float(t[0]) < 0.3 else 1.0)
    for how in MODES.values():
        with pytest.raises(ValueError, match="'model': expected a net whose tensors that require a gradient"):
            grads(model, how)


def test_rounding_alone_is_no_change() -> None:
    """Layers that take other kernels without a graph."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.layer, self.out = nn.Linear(DIMS + 1, 8), layer, nn.Linear(8, DIMS)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.out(self.layer(self.into(torch.cat([x, t[:, None].to(x)], 1))[:, None])[:, 0])

    for dtype in (torch.float32, torch.bfloat16):
        model = Denoiser(Encoded().to(dtype), VP(), pred="x0").eval()
        x = sample(model, leaf(4, DIMS).detach().to(dtype), solver="heun", steps=5, grad="exact")
        x.float().sum().backward()
        assert model.net.into.weight.grad.any()


@pytest.mark.parametrize("grad", [None, "autograd", "exact", "reversible", "continuous"])
def test_callbacks_must_not_write(grad: str | None) -> None:
    solver = {"reversible": "alf"}.get(grad or "", "ddim")
    with pytest.raises(ValueError, match=r"'callback': expected a function that leaves x as it is.*after step 0"):
        sample(
            denoiser(), leaf(2, DIMS), solver=solver, times=TIMES, grad=grad, callback=lambda n, x: x.detach().mul_(2)
        )
