"""Sampled products in Triton: a dense product on the tensor cores that stores the selected entries alone.

Every program computes a tile of grad_y^T x over its share of the tokens in float32 (float64) accumulators, looks up
which of the tile's entries are selected and stores those at their ranks: the dense gradient never reaches memory, and
half precision is not rounded. Where there are too few tiles for the device the tokens are split, and the compact
partial results are added up in order. A convolution gathers the columns of its unfolded input as it goes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tiles import along_x, on_device, place_of

HALF_WORDS = 16  # of 32 bits, between two ranks
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter multiplies no bfloat16
RANK_BLOCKS = 64  # blocks of that many to a program of _word_ranks


# --- kernels ---


@triton.jit
def _popcount(word):
    """Set bits of int32 words. The compiler makes one instruction of it; the interpreter has none."""
    word = word.to(tl.uint32, bitcast=True)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return ((((word + (word >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _word_ranks(words, ranks, word_ranks, count, BLOCKS: tl.constexpr, PER: tl.constexpr):
    """word_ranks (count): how many entries are selected before each 32-bit word."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None] * PER + tl.arange(0, PER)[None, :]
    own = _popcount(tl.load(words + at, at < count, other=0))
    first = tl.load(ranks + block, block * PER < count, other=0)
    tl.store(word_ranks + at, first[:, None] + tl.cumsum(own, 1) - own, at < count)


@triton.jit
def _rows(data, token, channel, channels, size, tokens_end):
    """(tokens, channels) of images (samples, channels, size); 0 beyond the last token."""
    sample, place = token // size, token % size
    at = (sample.to(tl.int64) * channels * size + place)[:, None] + channel.to(tl.int64)[None, :] * size
    return tl.load(data + at, (token < tokens_end)[:, None] & (channel < channels)[None, :], other=0)


@triton.jit
def _inside(here, place, tap, size):
    """Those of ``here`` (tokens, columns) for which place + tap lies in [0, size)."""
    return here & ((place[:, None] + tap[None, :]).to(tl.uint32, bitcast=True) < size)


@triton.jit
def _unfolded(
    data, token, column, columns, first_channel, channels, tokens_end,
    in0, in1, in2, out0, out1, out2, kernel0, kernel1, kernel2, stride0, stride1, stride2,
    padding0, padding1, padding2, dilation0, dilation1, dilation2, DIMS: tl.constexpr,
):  # fmt: skip
    """(tokens, columns) of what the taps of a kernel see of images (samples, channels, in0, in1, in2)."""
    size = out0 * out1 * out2
    sample, place = token // size, token % size
    channel = first_channel + column // (kernel0 * kernel1 * kernel2)
    tap = column % (kernel0 * kernel1 * kernel2)
    p0, t0 = place // (out1 * out2) * stride0 - padding0, tap // (kernel1 * kernel2) * dilation0
    p1, t1 = place // out2 % out1 * stride1 - padding1, tap // kernel2 % kernel1 * dilation1
    p2, t2 = place % out2 * stride2 - padding2, tap % kernel2 * dilation2
    here = _inside((token < tokens_end)[:, None] & (column < columns)[None, :], p2, t2, in2)
    if DIMS > 1:
        here = _inside(here, p1, t1, in1)
    if DIMS > 2:
        here = _inside(here, p0, t0, in0)
    of_token = sample.to(tl.int64) * channels * in0 * in1 * in2 + (p0 * in1 + p1) * in2 + p2
    of_column = channel.to(tl.int64) * in0 * in1 * in2 + (t0 * in1 + t1) * in2 + t2
    return tl.load(data + of_token[:, None] + of_column[None, :], here, other=0)


@triton.jit
def _store_selected(sums, row, row_end, column, columns, words, word_ranks, values):
    """Stores the selected entries of a tile at their ranks."""
    entry = row.to(tl.int64) * columns  # of each row's first column
    here = (row < row_end)[:, None] & (column < columns)[None, :]
    offset = (entry & 31).to(tl.int32)[:, None] + column[None, :]
    word = tl.load((words + (entry >> 5))[:, None] + (offset >> 5), here, other=0)
    bit = offset & 31
    selected = here & (((word >> bit) & 1) == 1)
    rank = tl.load((word_ranks + (entry >> 5))[:, None] + (offset >> 5), selected, other=0)
    tl.store(values + (rank + _popcount(word & ((1 << bit) - 1))), sums, selected)


@triton.jit
def _halves(sums, R: tl.constexpr, C: tl.constexpr):
    """The left and the right half of the columns of (R, C)."""
    return tl.split(tl.permute(tl.reshape(sums, (R, 2, C // 2)), (0, 2, 1)))


@triton.jit
def _store_tile(sums, row, row_end, first, columns, words, word_ranks, values, R: tl.constexpr, C: tl.constexpr):
    """_store_selected for a quarter of the columns at a time: what all of them need would not fit the registers."""
    Q: tl.constexpr = C // 4
    column = first + tl.arange(0, Q)
    left, right = _halves(sums, R, C)
    a, b = _halves(left, R, C // 2)
    _store_selected(a, row, row_end, column, columns, words, word_ranks, values)
    _store_selected(b, row, row_end, column + Q, columns, words, word_ranks, values)
    a, b = _halves(right, R, C // 2)
    _store_selected(a, row, row_end, column + 2 * Q, columns, words, word_ranks, values)
    _store_selected(b, row, row_end, column + 3 * Q, columns, words, word_ranks, values)


@triton.jit(do_not_specialize=["tokens", "share"])
def _product(
    grad_y, x, words, word_ranks, values, count, tokens, share, rows, columns, groups, channels,
    in0, in1, in2, out0, out1, out2, kernel0, kernel1, kernel2, stride0, stride1, stride2,
    padding0, padding1, padding2, dilation0, dilation1, dilation2,
    DIMS: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, T: tl.constexpr, TALL: tl.constexpr,
):  # fmt: skip
    """values (splits, count): this split's part of the selected entries of one tile (R rows, C columns)."""
    ACC: tl.constexpr = values.dtype.element_ty
    tiles_down, tiles_across = tl.cdiv(rows // groups, R), tl.cdiv(columns, C)
    # Programs that run at the same time cover a region TALL tiles high, whose inputs the cache holds.
    tile, group, split = place_of(tiles_down * tiles_across, groups)
    first_down = tile // (TALL * tiles_across) * TALL
    height = tl.minimum(tiles_down - first_down, TALL)
    down = first_down + tile % (TALL * tiles_across) % height
    across = tile % (TALL * tiles_across) // height
    row = group * (rows // groups) + down * R + tl.arange(0, R)
    column = across * C + tl.arange(0, C)
    first, end = split * share, tl.minimum((split + 1) * share, tokens)
    sums = tl.zeros((R, C), ACC)
    for start in range(0, share, T):
        token = first + start + tl.arange(0, T)
        g = _rows(grad_y, token, row, rows, out0 * out1 * out2, end)
        if DIMS == 0:
            v = _rows(x, token, column, columns, 1, end)
        else:
            v = _unfolded(
                x, token, column, columns, group * (channels // groups), channels, end,
                in0, in1, in2, out0, out1, out2, kernel0, kernel1, kernel2, stride0, stride1, stride2,
                padding0, padding1, padding2, dilation0, dilation1, dilation2, DIMS,
            )  # fmt: skip
        if WIDEN:
            g, v = g.to(ACC), v.to(ACC)
        sums = tl.dot(tl.trans(g), v, sums, input_precision=PRECISION, out_dtype=ACC)
    values += split.to(tl.int64) * count
    _store_tile(sums, row, (group + 1) * (rows // groups), across * C, columns, words, word_ranks, values, R, C)


# --- launching ---


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def bitmap(index: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """words and ranks from a list: index (count) int32 ascending. Bits are distinct: their sum is their union."""
    at = index.long()
    words = torch.zeros(-(-entries // 64), dtype=torch.int64, device=index.device)
    words.scatter_add_(0, at >> 6, torch.ones_like(at) << (at & 63))
    blocks = torch.arange(0, entries, 512, device=index.device)
    return words, torch.searchsorted(at, blocks).int()


def word_ranks(words: Tensor, ranks: Tensor) -> Tensor:
    """How many entries are selected before each 32-bit word: words (W) int64, ranks (W / 8) -> (2 W) int32."""
    result = torch.empty(2 * words.numel(), dtype=torch.int32, device=words.device)
    grid = (triton.cdiv(ranks.numel(), RANK_BLOCKS),)
    _word_ranks[grid](words.view(torch.int32), ranks, result, result.numel(), BLOCKS=RANK_BLOCKS, PER=HALF_WORDS)
    return result


def _tile(dtype: torch.dtype, rows: int, columns: int, dims: int) -> dict[str, int]:
    """R, C, T and warps: what fits the registers of an SM with the accumulators of this dtype."""
    most, tokens, warps = {2: (128, 64, 8), 4: (64, 32, 4), 8: (32, 16, 4)}[dtype.itemsize]
    if dims:  # every element of x has an address of its own
        most, tokens = min(most, 64), max(tokens // 2, 16)

    def side(size: int) -> int:
        return min(most, max(16, triton.next_power_of_2(size)))

    return {"R": side(rows), "C": side(columns), "T": tokens, "TALL": 8, "num_warps": warps, "num_stages": 2}


def sampled_matmul(
    grad_y: Tensor, x: Tensor, selected: Sequence[Tensor | None], values: Tensor, sizes: tuple[int, ...]
) -> None:
    """Fills values (count) from grad_y (S, R, out) and x (S, C, in).

    ``selected`` is index, words and ranks; ``sizes`` the Geometry of csrc/include/pk/sampled.h.
    """
    index, words, ranks = selected
    samples, rows, groups, channels, *geometry = sizes
    (in0, in1, in2, out0, out1, out2, kernel0, kernel1, kernel2), padding = geometry[:9], geometry[12:15]
    columns, tokens = channels // groups * kernel0 * kernel1 * kernel2, samples * out0 * out1 * out2
    spread = in0 * in1 * in2 * out0 * out1 * out2 * kernel0 * kernel1 * kernel2 > 1 or any(padding)
    dims = 0 if not spread else 3 if in0 > 1 or padding[0] else 2 if in1 > 1 or padding[1] else 1
    with on_device(x):
        if index is not None:
            words, ranks = bitmap(index, rows * columns)
        assert words is not None
        assert ranks is not None
        tile = _tile(x.dtype, rows // groups, columns, dims)
        tiles = triton.cdiv(rows // groups, tile["R"]) * triton.cdiv(columns, tile["C"])
        splits = max(min(_processors(x.device) // (tiles * groups), tokens // (16 * tile["T"])), 1)
        share = triton.cdiv(triton.cdiv(tokens, splits), tile["T"]) * tile["T"]
        parts = values if splits == 1 else values.new_empty(splits * values.numel())
        exact = not torch.backends.cuda.matmul.allow_tf32
        _product[along_x(tiles, groups, splits)](
            grad_y, x, words.view(torch.int32), word_ranks(words, ranks), parts, values.numel(), tokens, share,
            rows, columns, groups, channels, *geometry,
            DIMS=dims, PRECISION="ieee" if exact else "tf32", WIDEN=INTERPRETED, **tile,
        )  # fmt: skip
        if splits > 1:
            torch.sum(parts.view(splits, -1), 0, out=values)
