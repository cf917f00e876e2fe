"""Softmax over all other points, summed by class, in Triton: tiles of inner products that are never stored.

The forward runs a program for each block of rows and each class, and finds the logarithm of the class's sum with a
running maximum. The backward runs one for each block of rows and of features: pulls are symmetric, so that a row's
gradient needs its own tiles alone. Points come sorted by class. Equations:
python/probkernels/reference/pairwise_softmax.py.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tiles import along_x, on_device, place_of

# --- kernels. Tiles are of R rows, C columns and F features; point j has |q_j|^2 / 2 in half ---


@triton.jit
def _scores(q, half, row, last_row, col, last_col, features, PRECISION: tl.constexpr, F: tl.constexpr):
    """(R, C): q_i . q_j - half_j; -inf for a point with itself and for columns from last_col on."""
    ACC: tl.constexpr = q.dtype.element_ty
    total = tl.zeros((row.shape[0], col.shape[0]), ACC)
    left, right = row.to(tl.int64)[:, None] * features, col.to(tl.int64)[None, :] * features
    for first in range(0, features, F):
        f = first + tl.arange(0, F)
        a = tl.load(q + left + f[None, :], (row < last_row)[:, None] & (f < features)[None, :], other=0)
        b = tl.load(q + right + f[:, None], (col < last_col)[None, :] & (f < features)[:, None], other=0)
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=ACC)
    total -= tl.load(half + col, col < last_col, other=0)[None, :]
    here = (col < last_col)[None, :] & (row[:, None] != col[None, :])
    return tl.where(here, total, float("-inf"))


@triton.jit
def _fwd(
    q, half, bounds, logs, points, features, classes,
    PRECISION: tl.constexpr, R: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """logs (N, K): the logarithm of each class's sum of exp(q_i . q_j - half_j)."""
    ACC: tl.constexpr = q.dtype.element_ty
    row_tile, k, _ = place_of(tl.cdiv(points, R), classes)
    row = row_tile * R + tl.arange(0, R)
    first, last = tl.load(bounds + k).to(tl.int32), tl.load(bounds + k + 1).to(tl.int32)
    top, total = tl.full((R,), float("-inf"), ACC), tl.zeros((R,), ACC)
    for start in range(first, last, C):
        score = _scores(q, half, row, points, start + tl.arange(0, C), last, features, PRECISION, F)
        found = tl.maximum(top, tl.max(score, 1))
        shift = tl.where(found == float("-inf"), 0.0, found).to(ACC)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(score - shift[:, None]), 1)
        top = found
    log = tl.where(total == 0, float("-inf"), top + tl.log(tl.where(total == 0, 1.0, total)))
    tl.store(logs + row.to(tl.int64) * classes + k, log, row < points)


@triton.jit
def _bwd(
    q, half, labels, grads, delta, shift, grad_q, points, features, classes,
    PRECISION: tl.constexpr, R: tl.constexpr, C: tl.constexpr, F: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """grad_q (N, D): sums over j of pull[i, j] (q_j - q_i). shift is log_sums + half."""
    ACC: tl.constexpr = q.dtype.element_ty
    row_tile, out_tile, _ = place_of(tl.cdiv(points, R), tl.cdiv(features, OUT))
    row, out = row_tile * R + tl.arange(0, R), out_tile * OUT + tl.arange(0, OUT)
    here = row < points
    half_i, delta_i = tl.load(half + row, here, other=0), tl.load(delta + row, here, other=0)
    shift_i, class_i = tl.load(shift + row, here, other=0), tl.load(labels + row, here, other=0)
    pulled, total = tl.zeros((R, OUT), ACC), tl.zeros((R,), ACC)
    for start in range(0, points, C):
        col = start + tl.arange(0, C)
        there = col < points
        score = _scores(q, half, row, points, col, points, features, PRECISION, F)
        half_j, delta_j = tl.load(half + col, there, other=0), tl.load(delta + col, there, other=0)
        shift_j, class_j = tl.load(shift + col, there, other=0), tl.load(labels + col, there, other=0)
        both = here[:, None] & there[None, :]
        to = tl.load(grads + row.to(tl.int64)[:, None] * classes + class_j[None, :], both, other=0)
        back = tl.load(grads + col.to(tl.int64)[None, :] * classes + class_i[:, None], both, other=0)
        pull = tl.exp(score - shift_i[:, None]) * (to - delta_i[:, None])
        pull += tl.exp(score + half_j[None, :] - half_i[:, None] - shift_j[None, :]) * (back - delta_j[None, :])
        pull = tl.where(both, pull, 0.0).to(ACC)
        place = col.to(tl.int64)[:, None] * features + out[None, :]
        value = tl.load(q + place, there[:, None] & (out < features)[None, :], other=0)
        pulled = tl.dot(pull, value, pulled, input_precision=PRECISION, out_dtype=ACC)
        total += tl.sum(pull, 1)
    place, inside = row.to(tl.int64)[:, None] * features + out[None, :], here[:, None] & (out < features)[None, :]
    own = tl.load(q + place, inside, other=0)
    tl.store(grad_q + place, pulled - total[:, None] * own, inside)


# --- launching ---

ROWS, COLUMNS, MOST = 64, 64, 128  # of a float32 tile; features that a program of the backward adds up
SUMMED = 16  # of a product at a time: more would not fit into registers


def _options(q: Tensor) -> dict[str, Any]:
    """Double numbers take two registers each, so that their tiles are half as wide. Without a limit ptxas spills a few
    bytes to fit more warps."""
    exact = not torch.backends.cuda.matmul.allow_tf32
    sides = {"R": ROWS * 4 // q.itemsize, "C": COLUMNS * 4 // q.itemsize, "F": SUMMED}
    return {**sides, "PRECISION": "ieee" if exact else "tf32", "num_warps": 8, "maxnreg": 255}


def pairwise_softmax(q: Tensor, half: Tensor, bounds: Tensor, logs: Tensor) -> None:
    """Fills logs (N, K) from q (N, D), half (N) and bounds (K + 1)."""
    (points, features), classes, options = q.shape, logs.shape[1], _options(q)
    with on_device(q):
        grid = along_x(triton.cdiv(points, options["R"]), classes)
        _fwd[grid](q, half, bounds, logs, points, features, classes, **options)


def pairwise_softmax_bwd(
    q: Tensor, half: Tensor, labels: Tensor, grads: Tensor, delta: Tensor, shift: Tensor, grad_q: Tensor
) -> None:
    """Fills grad_q (N, D) from q (N, D), grads (N, K) and the other tensors (N)."""
    (points, features), classes, options = q.shape, grads.shape[1], _options(q)
    options |= {"C": SUMMED, "OUT": min(max(triton.next_power_of_2(features), 16), MOST * 4 // q.itemsize)}
    with on_device(q):
        grid = along_x(triton.cdiv(points, options["R"]), triton.cdiv(features, options["OUT"]))
        _bwd[grid](q, half, labels, grads, delta, shift, grad_q, points, features, classes, **options)
