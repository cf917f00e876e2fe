"""Proximal softmax on every backend: printed digits, optimality conditions, Jacobian, extreme inputs, errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops.prox_softmax import BWD
from torch import Tensor

from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32]
ALPHAS = (1e-4, 0.01, 0.125, 0.9, 1.0)
Y = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64)
PRINTED = {
    0.01: (0.25294429528, 7.547e-21, 0.74705570472),
    0.125: (0.2782473822, 0.0068764800, 0.7148761377),
    0.5: (0.3020955256, 0.0919200142, 0.6059844602),
    0.9: (0.3155880509, 0.1477190356, 0.5366929135),
    1.0: (0.3179340316, 0.1578813677, 0.5241846007),
}


def residual(p: Tensor, y: Tensor, alpha: float) -> Tensor:
    """How far (1 - alpha) p + alpha log p - y is from constant over the states that have a normal probability."""
    level = (1 - alpha) * p + alpha * p.log() - y
    level = torch.where(p > 1e-290, level, level.gather(-1, p.argmax(-1, keepdim=True)))
    return level.amax(-1) - level.amin(-1)


def test_printed_digits(on: torch.device) -> None:
    for alpha, expected in PRINTED.items():
        got = pk.ops.prox_softmax(Y.to(on), alpha).cpu()
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-10)
    assert float(pk.ops.prox_softmax(Y.to(on), 0.01)[1]) == pytest.approx(7.547e-21, rel=1e-4)
    torch.testing.assert_close(pk.ops.prox_softmax(Y.to(on), 1.0), Y.to(on).softmax(-1))


def test_jacobian(on: torch.device) -> None:
    expected = [0.4311705480, -0.0225176418, -0.4086529063, 0.0509203836, -0.0284027418, 0.4370556481]
    p = pk.ops.prox_softmax(Y.to(on), 0.125)
    rows = torch.stack([BWD.call(p, e, 0.125) for e in torch.eye(3, dtype=torch.float64, device=on)]).cpu()
    upper = rows[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    torch.testing.assert_close(upper, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-10)
    torch.testing.assert_close(rows, rows.T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [1, 2, 3, 4, 7, 40])
def test_equals_the_reference(on: torch.device, states: int, dtype: torch.dtype) -> None:
    """Values and gradients; whole and partial vectors, all sizes that kernels are compiled for."""
    for alpha in ALPHAS:
        y = (2 * torch.randn(3, 7, states, dtype=torch.float64)).to(on, dtype).requires_grad_()
        grad = torch.randn(y.shape).to(on, dtype)
        got = pk.ops.prox_softmax(y, alpha)
        with pk.use_backend("reference"):
            exact = y.detach().double().requires_grad_()
            expected = pk.ops.prox_softmax(exact, alpha)
        assert got.dtype == dtype
        conditioning = 8 if alpha >= 0.1 else 8 / alpha**0.5  # of tiny probabilities
        assert_close(got.detach(), expected.detach(), dtype, ELEMENTWISE, 128 * int(conditioning) ** 2)
        (of_y,) = torch.autograd.grad(got, y, grad)
        with pk.use_backend("reference"):
            (truth,) = torch.autograd.grad(pk.ops.prox_softmax(exact, alpha), exact, grad.double())
        if alpha >= 0.1 or dtype == torch.float64:
            assert_close(of_y, truth, dtype, ELEMENTWISE, 128 * int(conditioning) ** 2)


def test_optimality_conditions_hold_to_machine_precision(on: torch.device) -> None:
    for alpha in (1e-8, *ALPHAS):
        for scale in (1e-3, 0.3, 3.0, 1e4):
            y = scale * torch.randn(17, 5, dtype=torch.float64, device=on)
            p = pk.ops.prox_softmax(y, alpha)
            assert float((p.sum(-1) - 1).abs().max()) < 3e-15
            assert float(residual(p, y, alpha).max()) < 4e-15 * max(1.0, 2 * float(y.abs().max()))


def bisected(y: Tensor, alpha: Tensor) -> Tensor:
    """The probabilities by bisection on the multiplier, and for each one by a monotone Newton's method, in float64."""
    curve = (1 - alpha) / alpha
    a = ((y.double() - y.double().amax(-1, keepdim=True)) / alpha).clamp(min=-1e30)

    def log_p(level: Tensor) -> Tensor:
        wanted = a + level
        g = wanted.clamp(max=0)  # where curve e^g + g, convex and increasing, is at least what is wanted
        for _ in range(30):
            p = curve * g.exp()
            g = (g - (p + g - wanted) / (p + 1)).clamp(max=0)
        return g

    low, high = curve / y.shape[-1] - math.log(y.shape[-1]), curve  # the largest probability is 1 / n to 1
    for _ in range(60):
        middle = (low + high) / 2
        below = log_p(middle).exp().sum(-1, keepdim=True) < 1
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return log_p((low + high) / 2).exp()


@functools.cache
def problems(dtype: torch.dtype) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """y (48, 6, 64), padded with -inf, alpha (48, 1, 1), the numbers of states, and the solutions."""
    generator = torch.Generator().manual_seed(0)
    made, alphas, sizes = [], [], [2, 3, 8, 64] * 12
    for i, n in enumerate(sizes):
        draw = torch.rand(3, generator=generator, dtype=torch.float64)
        alpha, spread = 10 ** (-6 * draw[0]), 10 ** (8 * draw[1] - 4)
        unit = torch.rand(6, n, generator=generator, dtype=torch.float64)
        y = (
            spread * (2 * unit - 1),
            spread * (unit * 4).round(),  # ties
            -spread * 10 ** (-12 * unit),  # all scales at once
            alpha * unit - (torch.arange(n) > 0).double() * (0.9 + 0.2 * draw[2]),  # one state, others at its edge
        )[i // 4 % 4]
        made.append(torch.nn.functional.pad(y, (0, 64 - n), value=-math.inf))
        alphas.append(alpha)
    y, alpha = torch.stack(made).to(dtype), torch.stack(alphas)[:, None, None]
    return y, alpha, sizes, bisected(y, alpha)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_problems_against_bisection(on: torch.device, dtype: torch.dtype) -> None:
    """Newton's method has no bracket, so this stands for a proof: alpha, spread, ties, and states about to vanish."""
    eps = torch.finfo(dtype).eps
    for y, alpha, n, truth in zip(*problems(dtype), strict=True):
        p = pk.ops.prox_softmax(y[:, :n].to(on), float(alpha)).cpu().double()
        assert float((p.sum(-1) - 1).abs().max()) < 8 * n * eps
        assert float((p - truth[:, :n]).abs().max()) < 8 * eps
        if dtype == torch.float64:
            assert float(residual(p, y[:, :n], float(alpha)).max()) < 8e-15 * max(1.0, 2 * float(y[:, :n].abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_inputs(on: torch.device, dtype: torch.dtype) -> None:
    """Large numbers, ties, states that do not exist, shifts."""
    y = torch.tensor([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [3, 3, 3], [0.5, -math.inf, 1]], dtype=dtype, device=on)
    for alpha in ALPHAS:
        leaf = y.clone().requires_grad_()
        p = pk.ops.prox_softmax(leaf, alpha)
        expected = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3], dtype=dtype)
        torch.testing.assert_close(p[:3].detach().cpu(), expected, rtol=2e-6, atol=0)
        pair = pk.ops.prox_softmax(y[3, ::2].contiguous(), alpha)
        torch.testing.assert_close(p[3, ::2].detach(), pair, rtol=1e-5, atol=0)
        assert p[3, 1] == 0
        (grad,) = torch.autograd.grad(p.square().sum(), leaf)
        assert bool(grad.isfinite().all()) and grad[3, 1] == 0
        moved = pk.ops.prox_softmax(y + 4, alpha)
        torch.testing.assert_close(moved, p.detach(), rtol=2e-3 if dtype == torch.float32 else 1e-9, atol=1e-6)


def test_bad_numbers_stay_in_their_group(on: torch.device) -> None:
    y = torch.randn(40, 4, dtype=torch.float64, device=on)
    alone = pk.ops.prox_softmax(y, 0.3)
    y[3, 1], y[20, 0], y[33] = math.nan, math.inf, -math.inf
    got = pk.ops.prox_softmax(y, 0.3)
    bad = torch.zeros(40, dtype=torch.bool, device=on)
    bad[[3, 20, 33]] = True
    assert bool(got[bad].isnan().all()) and torch.equal(got[~bad], alone[~bad])


def test_layouts_empty_and_half_precision(on: torch.device) -> None:
    y = torch.randn(4, 6, dtype=torch.float64, device=on)
    torch.testing.assert_close(pk.ops.prox_softmax(y.T, 0.2), pk.ops.prox_softmax(y.T.contiguous(), 0.2))
    assert pk.ops.prox_softmax(y[:0], 0.2).shape == (0, 6)
    assert pk.ops.prox_softmax(y.bfloat16(), 0.2).dtype == torch.float32


def test_derivatives() -> None:
    for alpha in (0.05, 0.125, 1.0):
        y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t, a=alpha: pk.ops.prox_softmax(t, a), y, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda t, a=alpha: pk.ops.prox_softmax(t, a), y)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "'y'", lambda: pk.ops.prox_softmax(torch.ones(2, 3, dtype=torch.long), 0.5)),
        (ValueError, "'y'.*at least one state", lambda: pk.ops.prox_softmax(torch.ones(2, 0), 0.5)),
        (ValueError, "'alpha'.*got 0", lambda: pk.ops.prox_softmax(Y, 0)),
        (ValueError, "'alpha'.*got 1.5", lambda: pk.ops.prox_softmax(Y, 1.5)),
        (ValueError, "'alpha'.*got nan", lambda: pk.ops.prox_softmax(Y, math.nan)),
        (TypeError, "'alpha'", lambda: pk.ops.prox_softmax(Y, "0.5")),  # type: ignore[arg-type]
    ],
)
def test_errors(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text):
        call()
