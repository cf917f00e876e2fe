"""Gates that are drawn, and the slopes that their estimators take for dh/da (Bengio et al., 2013). In plain torch, to
the bit what csrc/include/pk/stochastic_gate.h gives: fused multiply-adds are exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.registry import opaque
from . import philox
from .philox import fused

STRAIGHT = ("straight_through", "straight_through_sigmoid")
RECTIFIERS = ("rectifier_gauss", "rectifier_logistic")
LOWEST = {torch.float32: -87.0, torch.float64: -708.0}
TERMS = {torch.float32: 7, torch.float64: 13}  # of exp


def exp_below(x: Tensor) -> Tensor:
    """exp of what is at most 0; 0 up to about -87 (float64: -708)."""
    dtype = x.dtype
    integer, mantissa, bias = philox.LAYOUT[dtype]
    low, inside = LOWEST[dtype], x > LOWEST[dtype]
    t = torch.where(inside, x, low)
    n = (t * torch.tensor(1.4426950408889634, dtype=dtype, device=x.device)).round()
    ln2 = [torch.full_like(t, -float.fromhex(text)) for text in philox.LN2[dtype]]
    r = fused(n, ln2[1], fused(n, ln2[0], t))
    total = philox.horner([1 / math.factorial(k) for k in range(TERMS[dtype] + 1)], r)
    scale = ((n.to(integer) + bias) << mantissa).view(dtype)
    return torch.where(inside, total * scale, 0.0)


def sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """p and 1 - p, both to their last digits."""
    e = exp_below(-x.abs())
    large = 1 / (1 + e)
    small = e * large
    return torch.where(x > 0, large, small), torch.where(x > 0, small, large)


def happens(yes: Tensor, no: Tensor, word: Tensor) -> Tensor:
    """Whether a word's u is below ``yes``; decided by 1 - u and ``no`` where ``yes`` is near 1."""
    rare = yes < no
    side = torch.where(rare, word, word ^ philox.WORD) >> 1
    below = side.to(yes.dtype) + 0.5 < torch.where(rare, yes, no) * 2.0**31
    return torch.where(rare, below, ~below)


def logistic(word: Tensor, dtype: torch.dtype) -> Tensor:
    """log((1 - u) / u) of a word's u."""
    odds = philox.middle(word ^ philox.WORD, dtype) / philox.middle(word, dtype)
    return philox.log_of_parts(*philox.parts_of(odds))


def _rows(a: Tensor) -> tuple[int, int]:
    rows = a.shape[0] if a.dim() else 1
    return rows, a.numel() // rows if rows else 0


@opaque(
    "(Tensor a, Tensor? seeds, int seed, int row, int step, str mode, bool sampled, float slope) -> (Tensor, Tensor)",
    lambda a, *_: (a.new_empty(a.shape), a.new_empty(a.shape)),
)
def _gates(
    a: Tensor, seeds: Tensor | None, seed: int, row: int, step: int, mode: str, sampled: bool, slope: float
) -> tuple[Tensor, Tensor]:
    """h and dh/da of a in float32 or float64, without derivatives."""
    a = a.contiguous()
    dtype, by = a.dtype, torch.tensor(slope, dtype=a.dtype, device=a.device)
    words = philox.row_words(*_rows(a), a.device, seeds, seed, row, step) if sampled else None

    def of_elements(numbers: Tensor) -> Tensor:  # of (rows, counters, 4)
        return numbers.flatten(1)[:, : _rows(a)[1]].reshape(a.shape)

    if mode in RECTIFIERS:
        assert words is not None
        y = a + of_elements(philox.normals(words, dtype) if mode == RECTIFIERS[0] else logistic(words, dtype))
        return torch.where(y <= 0, 0.0, y), torch.where(y <= 0, 0.0, torch.ones_like(y))
    p, q = sigmoid(a * by)
    if mode == "times_smooth":
        assert words is not None
        size = philox.root(p)
        open_ = happens(size, q / (1 + size), of_elements(words))
        h, estimate = torch.where(open_, size, 0.0), torch.where(open_, q * size * 0.5 * by, 0.0)
    else:
        h = (a > 0 if words is None else happens(p, q, of_elements(words))).to(dtype)
        estimate = torch.ones_like(a) if mode == STRAIGHT[0] else p * q * by
    if mode != STRAIGHT[0]:
        estimate = torch.where(a.isnan(), a, estimate)
    return torch.where(a.isnan(), a, h), estimate


def _curvature(a: Tensor, h: Tensor, mode: str, slope: float) -> Tensor:
    """The derivative of dh/da."""
    p = torch.sigmoid(a * slope)
    if mode == STRAIGHT[1]:
        return slope**2 * p * (1 - p) * (1 - 2 * p)
    if mode == "times_smooth":
        return slope**2 * (h != 0) * p.sqrt() * (1 - p) * (1 - 3 * p) / 4
    return torch.zeros_like(a)


def _parts(
    a: Tensor, seeds: Tensor | None, seed: int, row: int, step: int, mode: str, sampled: bool, slope: float
) -> tuple[Tensor, Tensor]:
    """h and dh/da in float32 or float64; differentiable in a by the estimator."""
    wide = a.to(torch.promote_types(a.dtype, torch.float32))
    with torch.no_grad():
        h, estimate = _gates(wide.detach(), seeds, seed, row, step, mode, sampled, slope)
        bend = _curvature(wide.detach(), h, mode, slope)
    zero = torch.where(wide.isfinite(), wide - wide.detach(), 0.0)  # carries derivatives, to second order
    return h + estimate * zero + 0.5 * bend * zero * zero, estimate + bend * zero


def stochastic_gate(
    a: Tensor,
    v: Tensor | None,
    seeds: Tensor | None,
    seed: int,
    row: int,
    step: int,
    mode: str,
    sampled: bool,
    slope: float,
) -> Tensor:
    """h(a), or h(a) v."""
    h, _ = _parts(a, seeds, seed, row, step, mode, sampled, slope)
    return (h if v is None else h * v.to(h.dtype)).to(a.dtype)


def stochastic_gate_bwd(
    grad: Tensor,
    a: Tensor,
    v: Tensor | None,
    seeds: Tensor | None,
    seed: int,
    row: int,
    step: int,
    mode: str,
    sampled: bool,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of a and of v, the latter empty without v."""
    h, estimate = _parts(a, seeds, seed, row, step, mode, sampled, slope)
    g = grad.to(h.dtype)
    into_a = (g if v is None else g * v.to(h.dtype)) * estimate
    into_v = g.new_empty(0) if v is None else g * h
    return into_a.to(a.dtype), into_v.to(a.dtype)
