"""KL divergences between the softmaxes of two rows in Triton: programs walk over rows in blocks of columns.

The forward keeps two running maxima and reads the logits once; the backward reads and writes them once. Equations:
python/probkernels/reference/kl_rows.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._tiles import on_device
from .bar_log_prob import _finite_or_zero

# --- kernels. Tiles are of R rows and C columns ---


@triton.jit
def _fwd(p, q, kl, log_sums_p, log_sums_q, rows, values, R: tl.constexpr, C: tl.constexpr):
    """``weighted`` is the sum of exp(p - top_p) ((p - top_p) - (q - top_q)), which follows both maxima."""
    ACC: tl.constexpr = kl.dtype.element_ty
    LOW: tl.constexpr = float("-inf")
    row = tl.program_id(0) * R + tl.arange(0, R)
    here, start = row < rows, row.to(tl.int64) * values
    top_p, top_q = tl.full((R,), LOW, ACC), tl.full((R,), LOW, ACC)
    total_p, total_q = tl.zeros((R,), ACC), tl.zeros((R,), ACC)
    weighted, missing = tl.zeros((R,), ACC), tl.zeros((R,), ACC)
    for first in range(0, values, C):
        col = first + tl.arange(0, C)
        inside = here[:, None] & (col < values)[None, :]
        place = start[:, None] + col[None, :]
        x = tl.load(p + place, inside, other=LOW).to(ACC)
        y = tl.load(q + place, inside, other=LOW).to(ACC)
        found_p, found_q = tl.maximum(top_p, tl.max(x, 1)), tl.maximum(top_q, tl.max(y, 1))
        shift_p, shift_q = _finite_or_zero(found_p), _finite_or_zero(found_q)
        rise_p = tl.where(top_p == LOW, 0.0, shift_p - _finite_or_zero(top_p)).to(ACC)
        rise_q = tl.where(top_q == LOW, 0.0, shift_q - _finite_or_zero(top_q)).to(ACC)
        weighted = (weighted + total_p * (rise_q - rise_p)) * tl.exp(-rise_p)
        weight = tl.exp(x - shift_p[:, None])
        both = (x > LOW) & (y > LOW)
        gap = tl.where(both, (x - shift_p[:, None]) - (y - shift_q[:, None]), 0.0).to(ACC)
        weighted += tl.sum(weight * gap, 1)
        missing += tl.sum(tl.where((x > LOW) & (y == LOW), 1.0, 0.0).to(ACC), 1)
        total_p = total_p * tl.exp(-rise_p) + tl.sum(weight, 1)
        total_q = total_q * tl.exp(-rise_q) + tl.sum(tl.exp(y - shift_q[:, None]), 1)
        top_p, top_q = found_p, found_q
    log_p, log_q = tl.log(total_p), tl.log(total_q)
    infinite = tl.where(missing > 0, float("inf"), 0.0).to(ACC)
    tl.store(kl + row, weighted / total_p - log_p + log_q + infinite, here)
    tl.store(log_sums_p + row, _finite_or_zero(top_p).to(tl.float64) + log_p.to(tl.float64), here)
    tl.store(log_sums_q + row, _finite_or_zero(top_q).to(tl.float64) + log_q.to(tl.float64), here)


@triton.jit
def _split(log_sum, like):
    """A large log-sum is two numbers, so that logits keep their digits below it."""
    high = log_sum.to(like)
    low = tl.where(tl.abs(high) == float("inf"), 0.0, log_sum - high.to(tl.float64)).to(like)
    return high[:, None], low[:, None]


@triton.jit
def _bwd(
    p, q, kl, log_sums_p, log_sums_q, grad_kl, grad_log_sums_p, grad_log_sums_q, grad_p, grad_q, rows, values,
    R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = kl.dtype.element_ty
    row = tl.program_id(0) * R + tl.arange(0, R)
    here, start = row < rows, row.to(tl.int64) * values
    high_p, low_p = _split(tl.load(log_sums_p + row, here, other=0), ACC)
    high_q, low_q = _split(tl.load(log_sums_q + row, here, other=0), ACC)
    divergence, grad = tl.load(kl + row, here, other=0)[:, None], tl.load(grad_kl + row, here, other=0)[:, None]
    of_sum_p = tl.load(grad_log_sums_p + row, here, other=0).to(ACC)[:, None]
    of_sum_q = tl.load(grad_log_sums_q + row, here, other=0).to(ACC)[:, None]
    for first in range(0, values, C):
        col = first + tl.arange(0, C)
        inside = here[:, None] & (col < values)[None, :]
        place = start[:, None] + col[None, :]
        x = tl.load(p + place, inside, other=0).to(ACC)
        y = tl.load(q + place, inside, other=0).to(ACC)
        log_p, log_q = x - high_p - low_p, y - high_q - low_q
        share_p, share_q = tl.exp(log_p), tl.exp(log_q)
        surplus = tl.where(x == float("-inf"), 0.0, log_p - log_q - divergence).to(ACC)
        value_p = share_p * (grad * surplus + of_sum_p)
        value_q = grad * (share_q - share_p) + of_sum_q * share_q
        tl.store(grad_p + place, value_p.to(grad_p.dtype.element_ty), inside)
        tl.store(grad_q + place, value_q.to(grad_q.dtype.element_ty), inside)


# --- launching ---

COLUMNS, TILE = 1024, 1024  # most columns, and most entries, of a float32 tile of either tensor


def _options(logits: Tensor) -> dict[str, int]:
    columns = min(max(triton.next_power_of_2(logits.shape[1]), 16), COLUMNS)
    return {"R": max(TILE // columns, 1), "C": columns, "num_warps": 4}


def kl_rows(p: Tensor, q: Tensor, kl: Tensor, log_sums_p: Tensor, log_sums_q: Tensor) -> None:
    """Fills kl and the log-sums (N) from logits (N, V) of both."""
    options = _options(p)
    with on_device(p):
        _fwd[(triton.cdiv(len(p), options["R"]),)](p, q, kl, log_sums_p, log_sums_q, *p.shape, **options)


def kl_rows_bwd(p: Tensor, q: Tensor, *others: Tensor) -> None:
    """Fills grad_p and grad_q (N, V), the last two, from both logits and, between them, six tensors (N)."""
    options = _options(p)
    with on_device(p):
        _bwd[(triton.cdiv(len(p), options["R"]),)](p, q, *others, *p.shape, **options)
