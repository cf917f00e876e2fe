"""The log-probability of one entry of each row's softmax in Triton: programs walk over rows in blocks of columns.

The forward keeps a running maximum and reads the logits once; the backward reads and writes them once. Equations:
python/probkernels/reference/bar_log_prob.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tiles import on_device

# --- kernels. Tiles are of R rows and C columns ---


@triton.jit
def _finite_or_zero(top):
    return tl.where(tl.abs(top) == float("inf"), 0.0, top).to(top.dtype)


@triton.jit
def _fwd(logits, index, log_prob, log_sums, rows, bars, R: tl.constexpr, C: tl.constexpr):
    ACC: tl.constexpr = log_prob.dtype.element_ty
    row = tl.program_id(0) * R + tl.arange(0, R)
    here, start = row < rows, row.to(tl.int64) * bars
    top, total = tl.full((R,), float("-inf"), ACC), tl.zeros((R,), ACC)
    for first in range(0, bars, C):
        col = first + tl.arange(0, C)
        inside = here[:, None] & (col < bars)[None, :]
        x = tl.load(logits + start[:, None] + col[None, :], inside, other=float("-inf")).to(ACC)
        found = tl.maximum(top, tl.max(x, 1))
        shift = _finite_or_zero(found)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        top = found
    shift, log_sum = _finite_or_zero(top), tl.log(total)
    picked = tl.load(logits + start + tl.load(index + row, here, other=0), here, other=0).to(ACC)
    tl.store(log_prob + row, picked - shift - log_sum, here)
    tl.store(log_sums + row, shift.to(tl.float64) + log_sum.to(tl.float64), here)


@triton.jit
def _bwd(
    logits, index, log_sums, grad_log_prob, grad_log_sums, grad, rows, bars, R: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """A large log-sum is two numbers, so that logits keep their digits below it."""
    ACC: tl.constexpr = grad_log_prob.dtype.element_ty
    row = tl.program_id(0) * R + tl.arange(0, R)
    here, start = row < rows, row.to(tl.int64) * bars
    log_sum = tl.load(log_sums + row, here, other=0)
    high = log_sum.to(ACC)
    low = tl.where(tl.abs(high) == float("inf"), 0.0, log_sum - high.to(tl.float64)).to(ACC)
    own = tl.load(grad_log_prob + row, here, other=0)
    all_bars = (tl.load(grad_log_sums + row, here, other=0) - own.to(tl.float64)).to(ACC)
    chosen = tl.load(index + row, here, other=0)
    for first in range(0, bars, C):
        col = first + tl.arange(0, C)
        inside = here[:, None] & (col < bars)[None, :]
        place = start[:, None] + col[None, :]
        x = tl.load(logits + place, inside, other=0).to(ACC)
        share = tl.exp(x - high[:, None] - low[:, None]) * all_bars[:, None]
        value = share + tl.where(col[None, :] == chosen[:, None], own[:, None], 0.0).to(ACC)
        tl.store(grad + place, value.to(grad.dtype.element_ty), inside)


# --- launching ---

COLUMNS, TILE = 1024, 2048  # most columns, and most entries, of a float32 tile


def _options(logits: Tensor) -> dict[str, int]:
    columns = min(max(triton.next_power_of_2(logits.shape[1]), 16), COLUMNS)
    return {"R": max(TILE // columns, 1), "C": columns, "num_warps": 4}


def bar_log_prob(logits: Tensor, index: Tensor, log_prob: Tensor, log_sums: Tensor) -> None:
    """Fills log_prob (N) and log_sums (N) from logits (N, K) and index (N)."""
    options = _options(logits)
    with on_device(logits):
        _fwd[(triton.cdiv(len(logits), options["R"]),)](logits, index, log_prob, log_sums, *logits.shape, **options)


def bar_log_prob_bwd(
    logits: Tensor, index: Tensor, log_sums: Tensor, grad_log_prob: Tensor, grad_log_sums: Tensor, grad: Tensor
) -> None:
    """Fills grad (N, K) from logits (N, K) and the other tensors (N)."""
    options = _options(logits)
    with on_device(logits):
        grid = (triton.cdiv(len(logits), options["R"]),)
        _bwd[grid](logits, index, log_sums, grad_log_prob, grad_log_sums, grad, *logits.shape, **options)
