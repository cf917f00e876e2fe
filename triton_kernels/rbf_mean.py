"""Weighted sums of RBF kernels and their gradients in Triton: tiles of the kernel matrix that are never stored.

A program for each function, each block of rows and each block of sums walks over all points. Equations:
python/probkernels/reference/rbf_mean.py.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._tiles import along_x, on_device, place_of


@triton.jit
def _sums(
    left, right, columns, sums, rows, points, depth, width,
    R: tl.constexpr, C: tl.constexpr, S: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """sums (F, M, W): sums over points of exp(left_m . right_n) columns_n. Tiles are of R rows, C points, S terms."""
    ACC: tl.constexpr = left.dtype.element_ty
    row_tile, out_tile, function = place_of(tl.cdiv(rows, R), tl.cdiv(width, OUT))
    row, out, function = row_tile * R + tl.arange(0, R), out_tile * OUT + tl.arange(0, OUT), function.to(tl.int64)
    row_start = (function * rows + row.to(tl.int64))[:, None]
    total = tl.zeros((R, OUT), ACC)
    for start in range(0, points, C):
        col = start + tl.arange(0, C)
        col_start = function * points + col.to(tl.int64)
        exponent = tl.zeros((R, C), ACC)
        for first in range(0, depth, S):
            s = first + tl.arange(0, S)
            a = tl.load(left + row_start * depth + s[None, :], (row < rows)[:, None] & (s < depth)[None, :], other=0)
            place = col_start[None, :] * depth + s[:, None]
            b = tl.load(right + place, (col < points)[None, :] & (s < depth)[:, None], other=0)
            exponent = tl.dot(a, b, exponent, input_precision="ieee", out_dtype=ACC)
        value = tl.load(
            columns + col_start[:, None] * width + out[None, :],
            (col < points)[:, None] & (out < width)[None, :], other=0,
        )  # fmt: skip
        total = tl.dot(tl.exp(exponent), value, total, input_precision="ieee", out_dtype=ACC)
    tl.store(sums + row_start * width + out[None, :], total, (row < rows)[:, None] & (out < width)[None, :])


ROWS, COLUMNS, MOST = 64, 32, 64  # of a float32 tile; sums that a program adds up
SUMMED = 16  # of a product at a time: more would not fit into registers


def _options(width: int, itemsize: int) -> dict[str, Any]:
    """Double numbers take two registers each, so that their tiles are half as wide."""
    out = min(max(triton.next_power_of_2(width), 16), MOST * 4 // itemsize)
    sides = {"R": ROWS * 4 // itemsize, "C": max(16, COLUMNS * 4 // itemsize), "S": SUMMED, "OUT": out}
    return {**sides, "num_warps": 8, "maxnreg": 255}


def rbf_mean(left: Tensor, right: Tensor, columns: Tensor, sums: Tensor) -> None:
    """Fills sums (F, M, W) from left (F, M, S), right (F, N, S) and columns (F, N, W)."""
    (functions, rows, depth), (_, points, width) = left.shape, columns.shape
    options = _options(width, left.itemsize)
    with on_device(left):
        grid = along_x(triton.cdiv(rows, options["R"]), triton.cdiv(width, options["OUT"]), functions)
        _sums[grid](left, right, columns, sums, rows, points, depth, width, **options)
