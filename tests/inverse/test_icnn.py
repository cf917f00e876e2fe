"""Input-convex networks: the gradient in closed form, gradients through it, convexity, weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probkernels.inverse import ICNN, ConvexPotential, ConvICNN

MAKE: dict[str, tuple[Callable[..., ConvexPotential], tuple[int, ...]]] = {
    "vectors": (lambda **how: ICNN(3, 6, 2, strong_convexity=0.3, **how), (3,)),
    "one layer": (lambda **how: ICNN(2, 5, 0, **how), (2,)),
    "any size": (lambda **how: ConvICNN(2, 3, (1, 2, 1, 2), strong_convexity=0.1, **how), (2, 9, 6)),
    "dense": (lambda **how: ConvICNN(1, 3, head="dense", size=7, features=4, **how), (1, 7, 7)),
    "conv": (lambda **how: ConvICNN(1, 3, (1, 2), head="conv", size=8, features=4, **how), (1, 8, 8)),
}


def made(name: str, **how: str) -> tuple[ConvexPotential, torch.Tensor]:
    make, shape = MAKE[name]
    potential = make(**how).double()
    potential.project_()
    return potential, torch.randn(4, *shape, dtype=torch.float64)


@pytest.mark.parametrize("weights", ["clamp", "softplus"])
@pytest.mark.parametrize("name", MAKE)
def test_closed_form_is_the_gradient_and_so_are_its_gradients(name: str, weights: str) -> None:
    potential, x = made(name, weights=weights)
    x.requires_grad_()
    psi, f = potential.value_and_gradient(x)
    truth = potential(x)
    torch.testing.assert_close(psi, truth, rtol=1e-13, atol=1e-13)
    (expected,) = torch.autograd.grad(truth.sum(), x, create_graph=True)
    torch.testing.assert_close(f, expected, rtol=1e-12, atol=1e-13)
    target = torch.randn_like(x)
    leaves = [x, *potential.parameters()]
    ours = torch.autograd.grad((f - target).square().sum(), leaves, materialize_grads=True)
    double = torch.autograd.grad((expected - target).square().sum(), leaves, materialize_grads=True)
    assert sum(g.abs().sum() > 0 for g in ours) >= 2
    for got, wanted in zip(ours, double, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", MAKE)
def test_convex_and_monotone(name: str) -> None:
    potential, x = made(name)
    y, mu = 3 * torch.randn_like(x), potential.strong_convexity
    for t in (0.1, 0.5, 0.8):
        bow = t * potential(x) + (1 - t) * potential(y) - potential(t * x + (1 - t) * y)
        assert (bow >= 0.5 * mu * t * (1 - t) * (x - y).square().flatten(1).sum(1) - 1e-12).all()
    product = ((potential.gradient(x) - potential.gradient(y)) * (x - y)).flatten(1).sum(1)
    assert (product >= mu * (x - y).square().flatten(1).sum(1) - 1e-12).all()


def test_initialization_and_projection() -> None:
    for weights in ("clamp", "softplus"):
        potential, _ = made("vectors", weights=weights)
        potential.initialize_(generator=torch.Generator().manual_seed(1))
        logs = torch.cat([layer.weight.log().flatten() for layer in potential.lin[1:]])
        assert abs(logs.mean() + 10) < 0.1 and 0.05 < logs.std() < 0.15
        assert potential.violation() == 0
    potential, _ = made("vectors")
    with torch.no_grad():
        potential.lin[1].weight[0, 0] = -0.5
    assert potential.violation() == 0.5
    potential.project_()
    assert potential.violation() == 0
    assert any((w < 0).any() for w in potential.lin[0].parameters())  # W_0 is free


def test_gradient_of_any_size_does_not_depend_on_what_is_far_away() -> None:
    potential = ConvICNN(1, 3, (1, 1)).double()
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    part = potential.gradient(x[..., :9, :9])
    torch.testing.assert_close(part[..., :5, :5], potential.gradient(x)[..., :5, :5], rtol=1e-12, atol=1e-12)


BAD = [
    (lambda: ICNN(0), ValueError, "ICNN: argument 'features'"),
    (lambda: ICNN(1, beta=0.0), ValueError, "argument 'beta': expected a positive number"),
    (lambda: ICNN(1, strong_convexity=-1.0), ValueError, "argument 'strong_convexity'"),
    (lambda: ICNN(1, weights="relu"), ValueError, "argument 'weights': expected one of"),
    (lambda: ICNN(2)(torch.ones(3, 4)), ValueError, r"argument 'x': expected shape \(B, 2\), got shape \(3, 4\)"),
    (lambda: ICNN(2)(torch.ones(3, 2, dtype=torch.complex64)), TypeError, "argument 'x': expected dtype"),
    (lambda: ConvICNN(1, head="dense"), ValueError, "argument 'size': expected an image size"),
    (lambda: ConvICNN(1, strides=(2,)), ValueError, "argument 'strides'"),
    (lambda: ConvICNN(1, 2, (1,), head="conv", size=4)(torch.ones(1, 1, 5, 5)), ValueError, "LPN.denoise averages"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
