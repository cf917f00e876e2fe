"""Softplus with its derivative on every backend: the equation, tails, all orders of derivatives, wrong input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.ops import softplus_sigmoid

from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(), (0, 3), (1,), (3, 7), (2, 5, 3), (5, 4096)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return (2 * torch.randn(shape, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_equation_with_gradients(on: torch.device, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for beta in (0.5, 10.0):
            x = inputs(shape, dtype)
            exact = x.double().requires_grad_()
            z = beta * exact
            truth = torch.logaddexp(z, torch.zeros_like(z)) / beta, torch.sigmoid(z)
            own = x.to(on).requires_grad_()
            got = softplus_sigmoid(own, beta)
            cotangents = [inputs(shape, dtype) for _ in range(2)]
            for g, t in zip(got, truth, strict=True):
                assert g.dtype is dtype
                assert_close(g.detach().cpu(), t.detach(), dtype, ELEMENTWISE)
            (grad,) = torch.autograd.grad(got, own, [c.to(on) for c in cotangents])
            (expected,) = torch.autograd.grad(truth, exact, [c.double() for c in cotangents])
            assert_close(grad.cpu() / beta, expected / beta, dtype, ELEMENTWISE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tails_are_smooth_and_precise(on: torch.device, dtype: torch.dtype) -> None:
    """No jump at beta x = 20, where torch's softplus becomes the identity; below, softplus is exp(beta x) / beta."""
    x = torch.linspace(19.9, 20.1, 41, dtype=dtype, device=on) / 10
    value, slope = softplus_sigmoid(x, 10.0)
    exact = torch.logaddexp(10 * x.double(), torch.zeros_like(x.double())) / 10
    assert ((value.double() - exact).abs() <= 2 * torch.finfo(dtype).eps * exact).all()
    low = torch.tensor([-2.0, -5.0, -8.0], dtype=dtype, device=on)
    value, slope = softplus_sigmoid(low, 10.0)
    torch.testing.assert_close(value, torch.log1p(torch.exp(10 * low)) / 10, rtol=2e-5, atol=0)
    torch.testing.assert_close(slope, torch.sigmoid(10 * low), rtol=2e-5, atol=0)


def test_infinite_and_missing_numbers(on: torch.device) -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, -1e30], device=on, requires_grad=True)
    value, slope = softplus_sigmoid(x, 4.0)
    (grad,) = torch.autograd.grad([value, slope], x, [torch.ones_like(x)] * 2)
    for got, expected in ((value, [float("inf"), 0, float("nan"), 1e30, 0]), (slope, [1, 0, float("nan"), 1, 0])):
        torch.testing.assert_close(got.detach().cpu(), torch.tensor(expected, dtype=x.dtype), equal_nan=True)
    torch.testing.assert_close(grad.cpu(), torch.tensor([1, 0, float("nan"), 1, 0.0]), equal_nan=True)


def test_derivatives_of_higher_order(on: torch.device) -> None:
    x = torch.linspace(-2, 2, 6, dtype=torch.float64, device=on, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: softplus_sigmoid(t, 2.0), x)
    assert torch.autograd.gradgradcheck(lambda t: softplus_sigmoid(t, 2.0), x)
    value, slope = softplus_sigmoid(x, 2.0)
    (first,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(first, slope.detach(), rtol=1e-13, atol=1e-13)


X = torch.ones(2, 3)
BAD: list[tuple[Any, Any, type[Exception], str]] = [
    ([1.0], 1.0, TypeError, "argument 'x': expected a floating-point tensor"),
    (X.int(), 1.0, TypeError, "argument 'x': expected dtype"),
    (X.to(torch.complex64), 1.0, TypeError, "argument 'x': expected dtype"),
    (X, 0.0, ValueError, "argument 'beta': expected a positive number, got 0.0"),
    (X, float("nan"), ValueError, "argument 'beta': expected a positive number, got nan"),
    (X, "1", TypeError, "argument 'beta': expected a number"),
]


@pytest.mark.parametrize(("x", "beta", "error", "text"), BAD)
def test_bad_arguments(x: Any, beta: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        softplus_sigmoid(x, beta)
