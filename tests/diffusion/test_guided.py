"""Guided denoisers: weights that vary, rescaling, classifiers, changes; and callbacks that return a changed state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, Change, ClassifierGuidance, Denoiser, Guided, Predicted, grid, sample
from torch import Tensor, nn

from tests.diffusion.densities import mixture


class Conditional(nn.Module):
    """Some net with a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.5, -0.2], [0.3, 0.4]], dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(x @ self.w + c) + 0.1 * t[:, None]


class Pull(Change):
    """Toward a point, by the gradient of a distance through the net."""

    through_net = True

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.tensor([0.3, 0.1], dtype=torch.float64))

    def forward(self, predicted: Predicted) -> Tensor:
        with torch.enable_grad():
            value = (predicted.data - self.target).square().sum(1)
        return predicted.data - 0.1 * predicted.gradient(value)


def model() -> Denoiser:
    return Denoiser(Conditional(), VP(), pred="v")


X = torch.tensor([[0.4, -1.0], [0.2, 0.9], [1.5, 0.3]], dtype=torch.float64)
CFG: dict[str, Any] = {
    "cond": torch.tensor([[1.0, 0.5]], dtype=torch.float64).expand(3, 2),
    "uncond": torch.zeros(1, 2, dtype=torch.float64),
}


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "alf"])
def test_without_changes_it_is_the_denoiser(solver: str) -> None:
    plain = sample(model(), X, solver=solver, steps=5, guidance=2.5, **CFG)
    assert torch.allclose(sample(Guided(model()), X, solver=solver, steps=5, guidance=2.5, **CFG), plain, atol=1e-9)


def test_weights_that_vary() -> None:
    times = grid(VP(), 6)
    inside = Guided(model(), interval=(0.3, 0.7))
    low = Guided(model(), weight=lambda t: torch.where(t < 0.5, 1.0, 0.0))
    for t in times.tolist():
        weights = (2.5 if 0.3 <= t <= 0.7 else 1.0, 2.5 if t < 0.5 else 0.0)
        for guided, weight in zip((inside, low), weights, strict=True):
            expected = model().x0(X, t, guidance=weight, **CFG)
            assert torch.allclose(guided.x0(X, t, guidance=2.5, **CFG), expected, atol=1e-12)
    rows = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    each = torch.tensor([1.0, 2.5, 1.0], dtype=torch.float64)
    assert torch.allclose(inside.x0(X, rows, guidance=2.5, **CFG), model().x0(X, rows, guidance=each, **CFG))


def test_rescaling() -> None:
    """With phi = 1 the output has the standard deviation of that for the condition."""
    u, c = (model()(X, 0.4, CFG[name].expand(3, 2)) for name in ("uncond", "cond"))
    guided = u + 3.0 * (c - u)
    scaled = guided * c.std(1, keepdim=True) / guided.std(1, keepdim=True)
    for phi in (0.7, 1.0):
        expected = model().convert(
            model().point("x0", torch.tensor(0.4).double()), "x0", phi * scaled + (1 - phi) * guided, X
        )
        assert torch.allclose(Guided(model(), rescale=phi).x0(X, 0.4, guidance=3.0, **CFG), expected, atol=1e-6)


@pytest.mark.parametrize(("grad", "solver"), [("exact", "dpmpp_2m"), ("exact", "heun"), ("reversible", "alf")])
def test_gradients(grad: str, solver: str) -> None:
    found = []
    for mode in ("autograd", grad):
        x, cond, w = (
            X.clone().requires_grad_(),
            CFG["cond"].clone().requires_grad_(),
            torch.tensor(2.0, requires_grad=True),
        )
        guided = Guided(
            model(), Pull(), ClassifierGuidance(lambda x, t: -x.square().sum(1), 0.002), interval=(0, 0.8), rescale=0.5
        )
        end = sample(guided, x, solver=solver, steps=4, grad=mode, cond=cond, uncond=CFG["uncond"], guidance=w)
        found.append(torch.autograd.grad(end.sin().sum(), [x, cond, w, *guided.parameters()]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 if grad == "reversible" else 1e-9)


def test_in_inference_mode_and_in_a_condition_that_depends_on_the_start() -> None:
    guided = Guided(model(), Pull())
    with torch.inference_mode():
        inside = sample(guided, X, steps=3, cond=CFG["cond"])
    assert torch.equal(inside.clone(), sample(guided, X, steps=3, cond=CFG["cond"]))
    x = X.clone().requires_grad_()
    end = sample(guided, x, steps=3, cond=2 * x, grad="autograd")
    assert torch.allclose(end, sample(guided, X, steps=3, cond=2 * X))  # the condition is no path of the change


def test_a_callback_that_returns_a_changed_state() -> None:
    """The run goes on from it, and gradients go through it."""
    x = torch.tensor([[0.3], [-0.4]], dtype=torch.float64, requires_grad=True)
    times = grid(VP(), 4)

    def halved(n: int, x: Tensor) -> Tensor | None:
        return x / 2 if n == 1 else None

    for solver in ("ddim", "heun"):
        end = sample(mixture(), x, solver=solver, times=times, grad="autograd", callback=halved)
        middle = sample(mixture(), x, solver=solver, times=times[:3], grad="autograd") / 2
        expected = sample(mixture(), middle, solver=solver, times=times[2:], grad="autograd")
        assert torch.allclose(end, expected)
        grads = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (end, expected)]
        assert torch.allclose(*grads)
    same = sample(mixture(), x, steps=4, callback=lambda n, x: x)
    assert torch.equal(same, sample(mixture(), x, steps=4))


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: sample(mixture(), X, steps=2, callback=lambda n, x: x[:1]), ValueError, "a changed x, in its shape"),
    (lambda: sample(mixture(), X, steps=2, callback=lambda n, x: True), TypeError, "got bool True"),  # type: ignore[arg-type,return-value]
    (
        lambda: sample(mixture(), X, steps=2, callback=lambda n, x: x.float()),
        TypeError,
        "a changed x, in its shape and",
    ),
    (lambda: sample(mixture(), X, steps=2, solver="obelm", callback=lambda n, x: x), ValueError, "keeps other states"),
    (lambda: sample(mixture(), X, steps=2, solver="unipc", callback=lambda n, x: x), ValueError, "keeps other states"),
    (lambda: sample(mixture(), X, steps=2, grad="exact", callback=lambda n, x: x), ValueError, "as grad is 'exact'"),
    (
        lambda: sample(mixture(), X, steps=2, grad="reversible", solver="alf", callback=lambda n, x: x),
        ValueError,
        "as grad is 'reversible'",
    ),
    (lambda: Guided(Conditional()), TypeError, "Guided: argument 'model': expected a Denoiser"),  # type: ignore[arg-type]
    (lambda: Guided(model(), abs), TypeError, r"'changes\[0\]': expected a Change"),  # type: ignore[arg-type]
    (lambda: Guided(model(), rescale=2.0), ValueError, "'rescale'"),
    (lambda: Guided(model(), interval=(1, 0)), ValueError, "'interval'"),
    (lambda: ClassifierGuidance(3), TypeError, "'log_prob': expected a function"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_wrong_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
