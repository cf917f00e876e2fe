"""Sum layers in Triton: products of tiles of weights with exponentials of log values, shifted by each sample's largest.

Outputs of a group share one shift, its largest input. An output that lies so far from it that terms may have left the
range, for their inputs or for their weights, is computed once more by itself, input by input; so is what it adds to the
gradients. The launch functions take contiguous tensors and fill the outputs they are given. Equations:
python/probkernels/reference/sum_layer.py.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tiles import along_x, on_device, place_of

# --- kernels. Tiles are of TO outputs, TI inputs and TB samples; a sample outside of the batch has inputs of -inf ---


@triton.jit
def _row(x, first, n, sample, batch, N: tl.constexpr, other: tl.constexpr):
    """Rows first .. first + N of x (n, batch) at some samples."""
    row = first + tl.arange(0, N)
    here = (row < n)[:, None] & (sample < batch)[None, :]
    return tl.load(x + row.to(tl.int64)[:, None] * batch + sample[None, :], here, other=other)


@triton.jit
def _weight_tile(weights, first_out, outs, first_in, ins, TO: tl.constexpr, TI: tl.constexpr):
    """(TO, TI) weights, 0 outside."""
    out, i = first_out + tl.arange(0, TO), first_in + tl.arange(0, TI)
    here = (out < outs)[:, None] & (i < ins)[None, :]
    return tl.load(weights + out.to(tl.int64)[:, None] * ins + i[None, :], here, other=0)


@triton.jit
def _finite_or_zero(top):
    return tl.where(tl.abs(top) == float("inf"), 0.0, top).to(top.dtype)


@triton.jit
def _largest(x, ins, sample, batch, TI: tl.constexpr, TB: tl.constexpr):
    """(TB) each sample's largest input."""
    top = tl.full((TB,), float("-inf"), x.dtype.element_ty)
    for first in range(0, ins, TI):
        top = tl.maximum(top, tl.max(_row(x, first, ins, sample, batch, TI, float("-inf")), 0))
    return top


@triton.jit
def _any(condition):
    return tl.max(tl.max(condition.to(tl.int32), 1), 0) > 0


@triton.jit
def _most(w, ins, axis: tl.constexpr):
    """The largest weight along ``axis``, at least 1; infinity if outputs are always to be computed by themselves: their
    sums may leave the range, or too little be left of gradients."""
    most = tl.maximum(tl.max(w, axis), 1.0)
    return tl.where(most * ins > 2.0**40, float("inf"), most)


@triton.jit
def _weighted_exp(w, d):
    """w exp(d) where that is in the range, though exp(d) may not be."""
    root = tl.exp(d / 2)
    return w * root * root


@triton.jit
def _sums_alone(
    x, weights, first_out, outs, ins, sample, batch, stride, TO: tl.constexpr, TB: tl.constexpr
):  # fmt: skip
    """(TO, TB) outputs that each have a shift of their own: their largest term.

    ``stride`` is the batch in 64 bits.
    """
    ACC: tl.constexpr = x.dtype.element_ty
    out = first_out + tl.arange(0, TO)
    top = tl.full((TO, TB), float("-inf"), ACC)
    for i in range(ins):
        w = tl.load(weights + out.to(tl.int64) * ins + i, out < outs, other=0)[:, None]
        v = tl.load(x + i * stride + sample, sample < batch, other=float("-inf"))[None, :]
        top = tl.maximum(top, tl.where(w > 0, v + tl.log(tl.where(w > 0, w, 1)), float("-inf")))
    top = _finite_or_zero(top)
    total = tl.zeros((TO, TB), ACC)
    for i in range(ins):
        w = tl.load(weights + out.to(tl.int64) * ins + i, out < outs, other=0)[:, None]
        v = tl.load(x + i * stride + sample, sample < batch, other=float("-inf"))[None, :]
        total += tl.where(w == 0, 0.0, _weighted_exp(w, v - top))
    return top + tl.log(total)


@triton.jit
def _fwd(
    x, weights, y, groups, outs, ins, batch,
    FAR: tl.constexpr, PRECISION: tl.constexpr, TO: tl.constexpr, TI: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = x.dtype.element_ty
    group, out_tile, sample_tile = place_of(groups, tl.cdiv(outs, TO))
    group, first_out, sample = group.to(tl.int64), out_tile * TO, sample_tile * TB + tl.arange(0, TB)
    x, weights, y = x + group * ins * batch, weights + group * outs * ins, y + group * outs * batch
    highest = _largest(x, ins, sample, batch, TI, TB)
    top = _finite_or_zero(highest)
    total, most = tl.zeros((TO, TB), ACC), tl.full((TO,), 1, ACC)
    for first in range(0, ins, TI):
        e = tl.exp(_row(x, first, ins, sample, batch, TI, float("-inf")) - top[None, :])
        w = _weight_tile(weights, first_out, outs, first, ins, TO, TI)
        total = tl.dot(w, e, total, input_precision=PRECISION, out_dtype=ACC)
        most = tl.maximum(most, _most(w, ins, 1))
    out = first_out + tl.arange(0, TO)
    here = (out < outs)[:, None] & (sample < batch)[None, :]
    value = top[None, :] + tl.log(total)
    lost = (total < FAR * most[:, None]) | (most == float("inf"))[:, None]
    far = lost & (highest > float("-inf"))[None, :]
    far = here & (far | (highest == float("inf"))[None, :])  # 0 times infinity is no number
    if _any(far):
        value = tl.where(
            far, _sums_alone(x, weights, first_out, outs, ins, sample, batch, group * 0 + batch, TO, TB), value
        )
    tl.store(y + out.to(tl.int64)[:, None] * batch + sample[None, :], value, here)


@triton.jit
def _outside(below, grad, most, infinite, FAR: tl.constexpr):
    """Whether what exp(top - y) is ``below`` needs terms, or has gradients, that may leave the range, or an input is
    ``infinite``. Weights above 1 may bring back a flow that leaves the range before it meets them."""
    TINY: tl.constexpr = 2.0**-126 if FAR > 2.0**-100 else 2.0**-1022
    steep = tl.abs(grad) / 1024
    size = below * most * tl.where(steep > 1, steep, 1)
    faint = tl.where(most > 1, tl.where(grad == 0, 1.0, tl.abs(grad) * below), 1.0) < TINY
    return (tl.where(most == float("inf"), most, size) > 1 / FAR) | faint | infinite


@triton.jit
def _ratios(
    y, grad_y, first_out, outs, sample, batch, top, infinite, most,
    FAR: tl.constexpr, TO: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    """(TO, TB): grad_y exp(top - y), 0 for the outputs to be computed by themselves; and which those are, but for -inf.

    ``most`` is the tile's largest weight.
    """
    value, grad = (
        _row(y, first_out, outs, sample, batch, TO, float("-inf")),
        _row(grad_y, first_out, outs, sample, batch, TO, 0),
    )
    below = tl.exp(top[None, :] - value)
    far = _outside(below, grad, most, infinite[None, :], FAR)
    return tl.where(far, 0.0, grad * below).to(value.dtype), far & (value > float("-inf"))


@triton.jit
def _grad_x(
    x, weights, y, grad_y, grad_x, groups, outs, ins, batch, FAR: tl.constexpr, LARGEST_LOG: tl.constexpr,
    PRECISION: tl.constexpr, TO: tl.constexpr, TI: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = x.dtype.element_ty
    group, in_tile, sample_tile = place_of(groups, tl.cdiv(ins, TI))
    group, first_in, sample = group.to(tl.int64), in_tile * TI, sample_tile * TB + tl.arange(0, TB)
    x, weights, grad_x = x + group * ins * batch, weights + group * outs * ins, grad_x + group * ins * batch
    y, grad_y = y + group * outs * batch, grad_y + group * outs * batch
    highest, stride = _largest(x, ins, sample, batch, TI, TB), group * 0 + batch  # 64 bits
    top, infinite = _finite_or_zero(highest), highest == float("inf")
    value = _row(x, first_in, ins, sample, batch, TI, float("-inf"))
    i = first_in + tl.arange(0, TI)
    total, alone = tl.zeros((TI, TB), ACC), tl.zeros((TI, TB), ACC)
    for first in range(0, outs, TO):
        w = _weight_tile(weights, first, outs, first_in, ins, TO, TI)
        most = tl.max(_most(w, ins, 1), 0)  # one limit for all spares registers
        ratio, far = _ratios(y, grad_y, first, outs, sample, batch, top, infinite, most, FAR, TO, TB)
        total = tl.dot(tl.trans(w), ratio, total, input_precision=PRECISION, out_dtype=ACC)
        if _any(far):
            for out in range(first, tl.minimum(first + TO, outs)):
                v = tl.load(y + out * stride + sample, sample < batch, other=0)
                g = tl.load(grad_y + out * stride + sample, sample < batch, other=0)
                one = tl.load(weights + out * (group * 0 + ins) + i, i < ins, other=0)
                share = _weighted_exp(one[:, None], tl.minimum(value - v[None, :], 2 * LARGEST_LOG)) * g[None, :]
                this = _outside(tl.exp(top - v), g, most, infinite, FAR) & (v > float("-inf"))
                alone += tl.where(this[None, :], share, 0.0)
    here = (i < ins)[:, None] & (sample < batch)[None, :]
    grad = tl.where(infinite[None, :], 0.0, tl.exp(value - top[None, :]) * total) + alone
    tl.store(grad_x + i.to(tl.int64)[:, None] * batch + sample[None, :], grad, here)


@triton.jit
def _grad_weights(
    x, weights, y, grad_y, parts, groups, outs, ins, batch, share, FAR: tl.constexpr, LARGEST_LOG: tl.constexpr,
    PRECISION: tl.constexpr, TO: tl.constexpr, TI: tl.constexpr, TB: tl.constexpr,
):  # fmt: skip
    """parts (splits, G, TO, TI): what the samples of a split add up to."""
    ACC: tl.constexpr = x.dtype.element_ty
    across = tl.cdiv(ins, TI)
    group, tile, split = place_of(groups, tl.cdiv(outs, TO) * across)
    group, split, first_out, first_in = group.to(tl.int64), split.to(tl.int64), tile // across * TO, tile % across * TI
    x, y, grad_y = x + group * ins * batch, y + group * outs * batch, grad_y + group * outs * batch
    row, stride = tl.arange(0, TO), group * 0 + batch  # 64 bits
    most = tl.max(_most(_weight_tile(weights, first_out, outs, first_in, ins, TO, TI), ins, 1), 0)  # one limit for all
    total = tl.zeros((TO, TI), ACC)
    for start in range(0, share, TB):
        sample = split * share + start + tl.arange(0, TB)
        highest = _largest(x, ins, sample, batch, TI, TB)
        top, infinite = _finite_or_zero(highest), highest == float("inf")
        value = _row(x, first_in, ins, sample, batch, TI, float("-inf"))
        ratio, far = _ratios(y, grad_y, first_out, outs, sample, batch, top, infinite, most, FAR, TO, TB)
        e = tl.where(infinite[None, :], 0.0, tl.exp(value - top[None, :])).to(ACC)
        total = tl.dot(ratio, tl.trans(e), total, input_precision=PRECISION, out_dtype=ACC)
        if _any(far):
            for o in range(tl.minimum(TO, outs - first_out)):
                v = tl.load(y + (first_out + o) * stride + sample, sample < batch, other=0)
                g = tl.load(grad_y + (first_out + o) * stride + sample, sample < batch, other=0)
                alone = tl.exp(tl.minimum(value - v[None, :], LARGEST_LOG)) * g[None, :]
                this = _outside(tl.exp(top - v), g, most, infinite, FAR) & (v > float("-inf"))
                alone = tl.sum(tl.where(this[None, :], alone, 0.0), 1)
                total += tl.where((row == o)[:, None], alone[None, :], 0.0)
    i = first_in + tl.arange(0, TI)
    here = (first_out + row < outs)[:, None] & (i < ins)[None, :]
    at = (split * groups + group) * outs * ins + (first_out + row).to(tl.int64)[:, None] * ins + i[None, :]
    tl.store(parts + at, total, here)


# --- launching ---

# For an element size: the share of the largest input below which terms may be lost, the largest power.
LIMITS = {4: {"FAR": 2.0**-64, "LARGEST_LOG": 88.0}, 8: {"FAR": 2.0**-960, "LARGEST_LOG": 709.0}}
MOST = 32  # of a tile's side: its sums stay in registers
SPLIT_SAMPLES = 256  # fewer would not repay a partial result


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _tile(x: Tensor, outs: int, summed: str) -> dict[str, Any]:
    """TO, TI, TB and warps. A product takes 16 of what it sums over at a time, and at least 16 of the others."""

    def side(name: str, size: int) -> int:
        return min(16 if name == summed else MOST, max(16, triton.next_power_of_2(size)))

    sizes = {"TO": outs, "TI": x.shape[1], "TB": x.shape[2]}
    exact = not torch.backends.cuda.matmul.allow_tf32
    sides = {name: side(name, size) for name, size in sizes.items()}
    # Double numbers take two registers each, so twice the warps hold a tile. Without a limit ptxas spills a few bytes
    # to fit more warps.
    registers = {"num_warps": x.itemsize, "maxnreg": 255}
    return {**sides, "PRECISION": "ieee" if exact else "tf32", **registers}


def sum_layer(x: Tensor, weights: Tensor, y: Tensor) -> None:
    """Fills y (G, O, B) from x (G, I, B) and weights (G, O, I)."""
    (groups, outs, batch), ins, tile = y.shape, x.shape[1], _tile(x, y.shape[1], "TI")
    grid = along_x(groups, triton.cdiv(outs, tile["TO"]), triton.cdiv(batch, tile["TB"]))
    with on_device(x):
        _fwd[grid](x, weights, y, groups, outs, ins, batch, FAR=LIMITS[x.itemsize]["FAR"], **tile)


def sum_layer_bwd(x: Tensor, weights: Tensor, y: Tensor, grad_y: Tensor, grad_x: Tensor, grad_weights: Tensor) -> None:
    """Fills grad_x (G, I, B) and grad_weights (G, O, I)."""
    (groups, outs, batch), ins = y.shape, x.shape[1]
    inputs, tile, limits = (x, weights, y, grad_y), _tile(x, outs, "TO"), LIMITS[x.itemsize]
    with on_device(x):
        grid = along_x(groups, triton.cdiv(ins, tile["TI"]), triton.cdiv(batch, tile["TB"]))
        _grad_x[grid](*inputs, grad_x, groups, outs, ins, batch, **limits, **tile)
        tile = _tile(x, outs, "TB")
        tiles = triton.cdiv(outs, tile["TO"]) * triton.cdiv(ins, tile["TI"])
        splits = max(min(2 * _processors(x.device) // (groups * tiles), batch // SPLIT_SAMPLES), 1)
        share = triton.cdiv(triton.cdiv(batch, splits), tile["TB"]) * tile["TB"]
        parts = grad_weights if splits == 1 else grad_weights.new_empty(splits, *grad_weights.shape)
        sizes = groups, outs, ins, batch, share
        _grad_weights[along_x(groups, tiles, splits)](*inputs, parts, *sizes, **limits, **tile)
        if splits > 1:
            torch.sum(parts, 0, out=grad_weights)
