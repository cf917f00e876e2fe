"""PowerNorm in Triton. One pass over the rows forward and one backward, as long as a group of features fits a block.

The rows are shared out as _tiles.py describes: every per-feature coefficient is known before they are read.
Equations: python/probkernels/reference/power_norm.py. The launch functions take contiguous tensors, per-feature
ones in the accumulation dtype, and fill the outputs they are given.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tiles import Tiling, feature, finish, on_device, partial_sums, place, plan_tiles, store_sums, total

# Bytes of a tile, in the accumulation dtype: what a warp takes, so that a thread's sums and inputs stay in registers,
# and a row of the widest one. For wider groups the scales take a pass of their own.
FWD_BYTES, BWD_BYTES = (2048, 32768), (1024, 16384)


# --- kernels. Tiles are (R rows, G groups, S columns); eps is a constant, as a float argument would be float32 ---


@triton.jit
def _not_pad(pad_mask, row, rows):
    """(R) whether a row exists and is not padding."""
    exists = row < rows
    if pad_mask is not None:
        exists = exists & (tl.load(pad_mask + row, exists, other=1) == 0)
    return exists


@triton.jit
def _group_scale(x, scale, row, group, rows, groups, size, EPS: tl.constexpr, SCALING: tl.constexpr):
    """(R, G, 1) factor of each group: 1 / rms."""
    if SCALING == "tile":
        r = tl.rsqrt(tl.sum(x * x, 2) / size + EPS)[:, :, None]
    elif SCALING == "given":
        exists = (row < rows)[:, None] & (group < groups)[None, :]
        r = tl.load(scale + row[:, None] * groups + group[None, :], exists, other=0)[:, :, None]
    else:
        r = tl.full((1, 1, 1), 1, x.dtype)
    return r


@triton.jit(do_not_specialize=["rows", "chunk_rows"])
def _fwd(
    x, weight, bias, psi2, pad_mask, scale, y, partials,
    rows, features, groups, size, tiles, tiles_per_group, chunk_rows,
    EPS: tl.constexpr, SCALING: tl.constexpr, R: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """y = z weight / sqrt(psi2 + eps) + bias if wanted; partials = sums of z^2 over valid rows."""
    ACC: tl.constexpr = partials.dtype.element_ty
    chunk, tile, first, column, exists, group = place(size, groups, tiles, tiles_per_group, chunk_rows, G, S)
    if y is not None:
        a = feature(weight, column, exists, 1, ACC) / tl.sqrt(tl.load(psi2 + column, exists, other=1) + EPS)
        b = feature(bias, column, exists, 0, ACC)
    sum_sq = tl.zeros((R, G, S), ACC)
    valid = tl.zeros((R,), tl.int32)
    for start in range(0, chunk_rows, R):
        row = first + start + tl.arange(0, R)
        here = (row < rows)[:, None, None] & exists[None, :, :]
        at = row[:, None, None] * features + column[None, :, :]
        x_rows = tl.load(x + at, here, other=0).to(ACC)
        z = x_rows * _group_scale(x_rows, scale, row, group, rows, groups, size, EPS, SCALING)
        counts = _not_pad(pad_mask, row, rows)
        valid += counts.to(tl.int32)
        sum_sq += tl.where(counts[:, None, None], z * z, 0)
        if y is not None:
            tl.store(y + at, z * a[None, :, :] + b[None, :, :], here)
    store_sums(partials, chunk, 0, 1, features, column, exists, sum_sq)
    tl.store(partials + chunk * (features + 1) + features, tl.sum(valid, 0).to(ACC), tile == 0)


@triton.jit
def _coefficients(weight, psi2, scale2, nu, column, exists, EPS: tl.constexpr):
    """(G, S) p and q of grad_z = grad_y p - z q."""
    ACC: tl.constexpr = psi2.dtype.element_ty
    inv = 1 / tl.sqrt(tl.load(scale2 + column, exists, other=1) + EPS)
    p = feature(weight, column, exists, 1, ACC) * inv
    q = feature(nu, column, exists, 0, ACC) * inv / tl.sqrt(tl.load(psi2 + column, exists, other=1) + EPS)
    return p, q


@triton.jit(do_not_specialize=["rows", "chunk_rows"])
def _bwd(
    x, grad_y, weight, psi2, scale2, nu, pad_mask, scale, along, grad_x, partials,
    rows, features, groups, size, tiles, tiles_per_group, chunk_rows,
    PASS: tl.constexpr, EPS: tl.constexpr, SCALING: tl.constexpr, R: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """grad_x unless only sums are wanted; partials = sums of grad_y z, grad_y and (PN) z^2 unless only grad_x is.

    Padding gets no gradient and adds to no sum.
    """
    ACC: tl.constexpr = psi2.dtype.element_ty
    chunk, tile, first, column, exists, group = place(size, groups, tiles, tiles_per_group, chunk_rows, G, S)
    p, q = _coefficients(weight, psi2, scale2, nu, column, exists, EPS)
    sum_gz = tl.zeros((R, G, S), ACC)
    sum_g = tl.zeros((R, G, S), ACC)
    sum_zz = tl.zeros((R, G, S), ACC)
    valid = tl.zeros((R,), tl.int32)
    for start in range(0, chunk_rows, R):
        row = first + start + tl.arange(0, R)
        here = (row < rows)[:, None, None] & exists[None, :, :]
        at = row[:, None, None] * features + column[None, :, :]
        x_rows = tl.load(x + at, here, other=0).to(ACC)
        g = tl.load(grad_y + at, here, other=0).to(ACC)
        counts = _not_pad(pad_mask, row, rows)
        keep = counts[:, None, None]
        r = _group_scale(x_rows, scale, row, group, rows, groups, size, EPS, SCALING)
        z = x_rows * r
        if PASS != "v_sums":
            grad_z = g * p[None, :, :] - z * q[None, :, :]
            if SCALING == "tile":
                grad_z -= z * (tl.sum(grad_z * z, 2) / size)[:, :, None]
            elif SCALING == "given":
                grad_z -= z * _group_scale(z, along, row, group, rows, groups, size, EPS, SCALING)
            tl.store(grad_x + at, tl.where(keep, grad_z * r, 0), here)
        if PASS != "v_grad":
            valid += counts.to(tl.int32)
            sum_gz += tl.where(keep, g * z, 0)
            sum_g += tl.where(keep, g, 0)
            if PASS == "pn":
                sum_zz += tl.where(keep, z * z, 0)
    if PASS != "v_grad":
        K: tl.constexpr = 3 if PASS == "pn" else 2
        store_sums(partials, chunk, 0, K, features, column, exists, sum_gz)
        store_sums(partials, chunk, 1, K, features, column, exists, sum_g)
        if PASS == "pn":
            store_sums(partials, chunk, 2, K, features, column, exists, sum_zz)
        end = partials + chunk * (K * features + 1) + K * features
        tl.store(end, tl.sum(valid, 0).to(ACC), tile == 0)


@triton.jit
def _scales(
    x, grad_y, weight, psi2, scale2, nu, pad_mask, scale, along, groups, size, EPS: tl.constexpr, S: tl.constexpr
):  # fmt: skip
    """For groups wider than a tile: scale = 1 / rms, and if wanted along = mean of grad_z z, of one group of a row."""
    ACC: tl.constexpr = scale.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    group = program % groups
    sums = tl.zeros((S,), ACC)
    for start in range(0, size, S):
        offset = start + tl.arange(0, S)
        x_part = tl.load(x + program * size + offset, offset < size, other=0).to(ACC)
        sums += x_part * x_part
    r = tl.rsqrt(tl.sum(sums, 0) / size + EPS)
    tl.store(scale + program, r)
    if along is not None:
        sums = tl.zeros((S,), ACC)
        for start in range(0, size, S):
            offset = start + tl.arange(0, S)
            p, q = _coefficients(weight, psi2, scale2, nu, group * size + offset, offset < size, EPS)
            z = tl.load(x + program * size + offset, offset < size, other=0).to(ACC) * r
            g = tl.load(grad_y + program * size + offset, offset < size, other=0).to(ACC)
            sums += (g * p - z * q) * z
        tl.store(along + program, tl.sum(sums, 0) / size)


@triton.jit
def _finish_fwd(partials, mean_sq, chunks, features, C: tl.constexpr, R: tl.constexpr):
    column = tl.program_id(0) * C + tl.arange(0, C)
    sum_sq = total(partials, 0, features + 1, chunks, column, features, C, R)
    valid = total(partials, 1, features + 1, chunks, tl.zeros((1,), tl.int32), features, 1, R)
    tl.store(mean_sq + column, sum_sq / valid, column < features)


@triton.jit
def _finish_bwd(
    partials, weight, psi2, nu, grad_weight, grad_bias, grad_nu, chunks, features,
    V: tl.constexpr, EPS: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """PN's gradients of weight, bias and nu; in PN-V (V) grad_nu is Lambda, the mean of g x_hat over valid rows."""
    K: tl.constexpr = 2 if V else 3
    width = K * features + 1
    column = tl.program_id(0) * C + tl.arange(0, C)
    exists = column < features
    inv = 1 / tl.sqrt((tl.load(psi2 + column, exists, other=1) + EPS).to(tl.float64))
    dot = total(partials, 0, width, chunks, column, features, C, R) * inv
    valid = total(partials, K, width, chunks, tl.zeros((1,), tl.int32), features, 1, R)
    lam = feature(weight, column, exists, 1, tl.float64) * dot / valid
    tl.store(grad_weight + column, dot, exists)
    tl.store(grad_bias + column, total(partials, 1, width, chunks, column, features, C, R), exists)
    if V:
        tl.store(grad_nu + column, lam, exists)
    elif nu is None:
        tl.store(grad_nu + column, -lam, exists)
    else:
        gamma = total(partials, 2, width, chunks, column, features, C, R) * inv * inv / valid
        tl.store(grad_nu + column, tl.load(nu + column, exists, other=0) * gamma - lam, exists)


# --- launching ---


def _given(
    plan: Tiling, x: Tensor, like: Tensor, eps: float, grad_y: Tensor | None = None, features: tuple = (None,) * 5
) -> tuple[Tensor | None, Tensor | None]:
    """The scales (rows, groups) of groups that no tile holds, and with grad_y also the means of grad_z z."""
    if plan.scaling != "given":
        return None, None
    scale = like.new_empty(plan.rows * plan.groups)
    along = None if grad_y is None else torch.empty_like(scale)
    sizes = plan.groups, plan.features // plan.groups
    _scales[(scale.numel(),)](x, grad_y, *features, scale, along, *sizes, EPS=eps, S=2048, num_warps=8)
    return scale, along


def fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    psi2: Tensor | None,
    pad_mask: Tensor | None,
    y: Tensor | None,
    mean_sq: Tensor,
    groups: int,
    eps: float,
) -> None:
    """Fills y (..., C), unless it is None, and mean_sq (C) from x (..., C)."""
    with on_device(x):
        plan = plan_tiles(x, groups, mean_sq.dtype, FWD_BYTES)
        scale, _ = _given(plan, x, mean_sq, eps)
        partials = partial_sums(plan, 1, mean_sq)
        tensors = x, weight, bias, psi2, pad_mask, scale, y, partials
        _fwd[(plan.tiles * plan.chunks,)](*tensors, *plan.sizes, EPS=eps, **plan.options)
        finish(_finish_fwd, plan, partials, mean_sq)


def stats(x: Tensor, pad_mask: Tensor | None, mean_sq: Tensor, groups: int, eps: float) -> None:
    """Fills mean_sq (C) from x (..., C)."""
    fwd(x, None, None, None, pad_mask, None, mean_sq, groups, eps)


def _run_bwd(
    which: str, x: Tensor, grad_y: Tensor, features: tuple, grad_x: Tensor | None, groups: int, eps: float
) -> tuple[Tiling, Tensor]:
    """Runs PN's backward ("pn"), or a pass of PN-V's ("v_sums", "v_grad"), and gives the partial sums.

    ``features`` are weight, psi2, scale2, nu and pad_mask.
    """
    psi2 = features[1]
    plan = plan_tiles(x, groups, psi2.dtype, BWD_BYTES)
    scale, along = _given(plan, x, psi2, eps, None if which == "v_sums" else grad_y, features)
    partials = partial_sums(plan, 3 if which == "pn" else 2, psi2)
    tensors = x, grad_y, *features, scale, along, grad_x, partials
    _bwd[(plan.tiles * plan.chunks,)](*tensors, *plan.sizes, PASS=which, EPS=eps, **plan.options)
    return plan, partials


def bwd(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    psi2: Tensor,
    scale2: Tensor,
    nu: Tensor | None,
    pad_mask: Tensor | None,
    grad_x: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_nu: Tensor,
    groups: int,
    eps: float,
) -> None:
    """PN's backward: fills grad_x (..., C) and the gradients (C) of weight, bias and nu."""
    with on_device(x):
        features = weight, psi2, scale2, nu, pad_mask
        plan, partials = _run_bwd("pn", x, grad_y, features, grad_x, groups, eps)
        tensors = partials, weight, psi2, nu, grad_weight, grad_bias, grad_nu
        finish(_finish_bwd, plan, *tensors, V=False, EPS=eps)


def v_bwd(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    psi2: Tensor,
    pad_mask: Tensor | None,
    grad_x: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    groups: int,
    eps: float,
) -> None:
    """PN-V's backward: fills grad_x (..., C) and the gradients (C) of weight and bias."""
    with on_device(x):
        plan, partials = _run_bwd("v_sums", x, grad_y, (weight, psi2, psi2, None, pad_mask), None, groups, eps)
        lam = torch.empty_like(psi2)
        finish(_finish_bwd, plan, partials, weight, psi2, None, grad_weight, grad_bias, lam, V=True, EPS=eps)
        # Lambda plays the part of nu: the gradient subtracts it in the same place.
        _run_bwd("v_grad", x, grad_y, (weight, psi2, psi2, lam, pad_mask), grad_x, groups, eps)
