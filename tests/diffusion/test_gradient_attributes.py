"""What is restored for the backward pass beside tensors: plain attributes of modules, and numbers drawn late."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.diffusion import VP, Denoiser, sample
from torch import Tensor, nn

from tests.diffusion.test_gradient_replay import MODES, ODE, TIMES, denoiser, equal, grads
from tests.diffusion.test_gradients import DIMS, same


@pytest.fixture(params=MODES, name="how")
def _how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


class Reversed(torch.autograd.Function):
    """Multiplies the gradient alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class Switches(nn.Module):
    """What outputs do not show: a factor of the gradient, and whether there is one at all."""

    factor, stopped = -1.0, False

    def forward(self, h: Tensor) -> Tensor:
        return Reversed.apply(h.detach() if self.stopped else h, self.factor)


@pytest.mark.parametrize(("name", "value"), [("scale", 2.0), ("factor", 3.0), ("stopped", True), ("extra", torch.sin)])
def test_attributes_are_those_of_the_forward_pass(how: dict[str, Any], name: str, value: Any) -> None:
    """Set on the module, or hidden there where they are the class's; counters stay as they are."""
    models = []

    def make() -> Denoiser:
        models.append(denoiser(Switches()))
        return models[-1]

    def switch(model: Denoiser) -> None:
        setattr(model.net if hasattr(model.net, name) else model.net.middle, name, value)

    equal(make, how, switch)
    for model in models:
        assert getattr(model.net if hasattr(model.net, name) else model.net.middle, name) == value
    assert models[0].net.calls >= models[1].net.calls


@pytest.mark.parametrize(("draw", "name"), [(random.random, "Python"), (np.random.rand, "NumPy")])
def test_numbers_drawn_in_late_calls_alone(how: dict[str, Any], draw: Callable[[], float], name: str) -> None:
    """Torch's are drawn again; others are watched in the first call alone, and the error says so."""
    model = denoiser(extra=lambda h: draw() if model.net.calls > 2 else 0.0)
    with pytest.raises(RuntimeError, match=f"; {name}'s random numbers were drawn after its first call"):
        grads(model, how)
    for draw_late in (draw, lambda: torch.rand(())):
        net = denoiser().net
        net.extra = lambda h, f=draw_late, net=net: h * f() if net.calls > 2 else 0.0
        with pytest.raises(ValueError, match=r"'model': expected a net that draws no random numbers.*model\.eval"):
            grads(Denoiser(net, VP(), pred="v"), ODE)
    if how["grad"] == "exact":
        equal(lambda: denoiser(), how, lambda m: torch.rand(2))


class DrawsBelow(nn.Module):
    """Torch's random numbers at times below ``cut``; a closure lists the times, as attributes of nets are rewound."""

    def __init__(self, cut: float, seen: list[float]) -> None:
        super().__init__()
        self.first, self.last, self.cut, self.note = nn.Linear(DIMS, 8), nn.Linear(8, DIMS), cut, seen.append

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        self.note(float(t[0]))
        return self.last(h * torch.rand(h.shape, dtype=h.dtype) if float(t[0]) < self.cut else h)


def test_torch_numbers_drawn_in_the_last_call_alone(how: dict[str, Any]) -> None:
    """They are drawn again, although no call after it could show that the generator moved."""
    seen: list[float] = []

    def make(cut: float) -> Denoiser:
        torch.manual_seed(1)
        return Denoiser(DrawsBelow(cut, seen).double(), VP(), pred="v")

    sample(make(0.0), torch.ones(2, DIMS, dtype=torch.float64), solver="alf", times=TIMES)
    least, second = sorted({*seen})[:2]
    assert seen[-1] == least and seen.count(least) == 1
    equal(lambda: make((least + second) / 2), how, lambda model: torch.rand(2))


class Held(nn.Module):
    """An adapter that is not trained yet: of what it holds, outputs show nothing and gradients all."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ParameterDict({name: nn.Parameter(torch.ones(8, 2)) for name in "ab"})
        self.up = nn.ParameterDict({name: nn.Parameter(torch.zeros(2, 8)) for name in "ab"})
        self.active, self.scaling, self.parts, self.steps = ["a"], {"a": 1.0, "b": 1.0}, {"a"}, deque([1.0], 3)
        self.setting, self.pair, self.gate = SimpleNamespace(scale=1.0, more=[1.0]), (1.0, [1.0]), torch.ones(())

    def forward(self, h: Tensor) -> Tensor:
        scale = self.setting.scale * self.setting.more[-1] * self.steps[-1] * self.pair[1][-1] * self.gate
        scale = scale * (1.0 if "a" in self.parts else 0.5)
        for name in self.active:
            h = h + scale * self.scaling[name] * (h @ self.down[name] @ self.up[name])
        return h


HELD: dict[str, Callable[[Held], object]] = {
    "list replaced": lambda m: setattr(m, "active", ["b"]),
    "list written": lambda m: m.active.append("b"),
    "list cleared": lambda m: m.active.clear(),
    "dict": lambda m: m.scaling.update(a=0.1),
    "set": lambda m: m.parts.clear(),
    "deque": lambda m: m.steps.append(2.0),
    "object": lambda m: setattr(m.setting, "scale", 0.0),
    "object replaced": lambda m: setattr(m, "setting", SimpleNamespace(scale=2.0, more=[1.0])),
    "list in an object": lambda m: m.setting.more.append(3.0),
    "list in a tuple": lambda m: m.pair[1].append(3.0),
    "tensor": lambda m: setattr(m, "gate", torch.zeros(())),
}


@pytest.mark.parametrize("change", HELD)
def test_what_containers_and_objects_hold(how: dict[str, Any], change: str) -> None:
    """An adapter that is switched before the backward pass; afterwards it is as it was set."""
    models = []

    def make() -> Denoiser:
        models.append(denoiser(Held()))
        return models[-1]

    equal(make, how, lambda model: HELD[change](model.net.middle))
    after, plain = ({k: v for k, v in vars(m.net.middle).items() if not k.startswith("_")} for m in models)
    assert after == plain


def test_tensors_that_modules_hold_and_are_written_to(how: dict[str, Any]) -> None:
    model = denoiser(Held())
    with pytest.raises(RuntimeError, match=r"'net\.middle\.gate' was modified by an inplace operation"):
        grads(model, how, model.net.middle.gate.zero_)
    model = denoiser(Held())
    model.net.middle.pair = (1.0, [model.net.middle.gate])
    with pytest.raises(RuntimeError, match=r"gate' was modified|'net\.middle\.pair\.1\.0' was modified"):
        grads(model, how, model.net.middle.gate.zero_)


class Memo(nn.Module):
    """Adds what is computed once for a time: the calls of the forward pass, which have no graph, fill the cache."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.of_time, self.form, self.hits = nn.Linear(1, 8), form, 0
        self.by_time: dict[float, Tensor] = {}
        self.last, self.value, self.kept = -1.0, torch.zeros(8), SimpleNamespace(last=-1.0)

    def forward(self, h: Tensor, t: float) -> Tensor:
        self.hits += 1
        new = self.of_time(torch.full((1, 1), t, dtype=h.dtype)) if t not in (self.last, self.kept.last) else None
        if self.form == "dict":
            return h + self.by_time.setdefault(t, new)
        if self.form == "object":
            self.kept = self.kept if new is None else SimpleNamespace(last=t, value=new)
            return h + self.kept.value
        if new is not None:
            self.last, self.value = t, new
        return h + self.value


class Timed(nn.Module):
    def __init__(self, memo: Memo) -> None:
        super().__init__()
        self.first, self.last, self.memo = nn.Linear(DIMS, 8), nn.Linear(8, DIMS), memo

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.memo(self.first(x), float(t[0]))))


@pytest.mark.parametrize("form", ["dict", "attributes", "object"])
def test_caches_that_calls_fill(how: dict[str, Any], form: str) -> None:
    """A call of the backward pass that found what one without a graph left would lose a part of the gradient."""

    def make() -> Denoiser:
        torch.manual_seed(1)
        return Denoiser(Timed(Memo(form)).double(), VP(), pred="v")

    equal(make, how, lambda model: None)
    model = make()
    grads(model, how)
    assert form != "dict" or len(model.net.memo.by_time) == len({*model.net.memo.by_time}) > 3


def test_threads_leave_each_other_alone() -> None:
    """Leaves of one run's own must not stay in the net, or be found there by another run."""
    model = denoiser()
    parameters = list(model.parameters())
    start = torch.ones(2, DIMS, dtype=torch.float64)

    def gradients(i: int, grad: str = "exact") -> list[Tensor]:
        x = (start * i).requires_grad_()
        return list(
            torch.autograd.grad(sample(model, x, times=TIMES, grad=grad).sum(), [x, *parameters], allow_unused=True)
        )

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(gradients, range(1, 13)))
    finally:
        sys.setswitchinterval(interval)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for i, got in enumerate(found, 1):
        same(got, gradients(i, "autograd"), 1e-12)
