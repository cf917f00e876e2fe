"""Tiling of a matrix (N, C) over the programs of a grid, for sums of the columns over all rows.

Columns are cut into tiles of whole groups, rows into chunks. A program keeps the coefficients and sums of its tile in
registers while it walks down its chunk, and writes partial sums. The kernel that ``finish`` launches adds these up in
float64 in a fixed order.
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SUM_COLUMNS, SUM_ROWS = 32, 32  # the block in which partial sums are added up


# --- grids. All lie along x, as y and z end at 65,535 ---


@triton.jit
def place_of(first, second):
    """This program's place in a grid of ``along_x(first, second, ...)``."""
    program = tl.program_id(0)
    return program % first, program // first % second, program // (first * second)


def along_x(*sizes: int) -> tuple[int]:
    """The grid for programs that find their place by ``place_of``, of which neighbors differ in the first number."""
    return (math.prod(sizes),)


# --- inside kernels. Tiles are (R rows, G groups, S columns) ---


@triton.jit
def place(size, groups, tiles, tiles_per_group, chunk_rows, G: tl.constexpr, S: tl.constexpr):
    """This program's chunk and tile, its first row, its columns (G, S) and which of them exist, its groups (G)."""
    program = tl.program_id(0).to(tl.int64)
    chunk, tile = program // tiles, program % tiles
    group = tile // tiles_per_group * G + tl.arange(0, G)
    offset = tile % tiles_per_group * S + tl.arange(0, S)
    exists = (group < groups)[:, None] & (offset < size)[None, :]
    return chunk, tile, chunk * chunk_rows, group[:, None] * size + offset[None, :], exists, group


@triton.jit
def feature(pointer, column, exists, default: tl.constexpr, like: tl.constexpr):
    """(G, S) values of a per-feature tensor, or the default where there is no such tensor."""
    if pointer is None:
        value = tl.full(column.shape, default, like)
    else:
        value = tl.load(pointer + column, exists, other=default)
    return value


@triton.jit
def store_sums(partials, chunk, k: tl.constexpr, K: tl.constexpr, features, column, exists, sums):
    """Writes row k of a chunk's partial sums, which are (K, C) and then the number of valid rows."""
    tl.store(partials + chunk * (K * features + 1) + k * features + column, tl.sum(sums, 0), exists)


@triton.jit
def total(partials, k, width, chunks, column, features, C: tl.constexpr, R: tl.constexpr):
    """(C) float64 sums over all chunks of column `column` of row k of the partial sums."""
    sums = tl.zeros((R, C), tl.float64)
    for start in range(0, chunks, R):
        chunk = (start + tl.arange(0, R)).to(tl.int64)
        here = (chunk < chunks)[:, None] & (column < features)[None, :]
        sums += tl.load(partials + chunk[:, None] * width + k * features + column[None, :], here, other=0)
    return tl.sum(sums, 0)


# --- launching ---


@dataclass(frozen=True)
class Tiling:
    """How the programs of a grid share x (rows, features)."""

    rows: int
    features: int
    groups: int
    scaling: str  # where a row's group scale comes from: none, tile or given
    tile: tuple[int, int, int]  # R, G, S
    warps: int
    tiles: int
    tiles_per_group: int
    chunk_rows: int
    chunks: int

    @property
    def sizes(self) -> tuple[int, ...]:  # the kernels' runtime arguments
        size = self.features // self.groups
        return self.rows, self.features, self.groups, size, self.tiles, self.tiles_per_group, self.chunk_rows

    @property
    def options(self) -> dict[str, int | str]:  # and their compile-time ones
        r, g, s = self.tile
        return {"SCALING": self.scaling, "R": r, "G": g, "S": s, "num_warps": self.warps}


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def plan_tiles(x: Tensor, groups: int, acc: torch.dtype, tile_bytes: tuple[int, int]) -> Tiling:
    """Splits x into about four programs a processor; groups = 0 means no group scaling."""
    features = x.shape[-1]
    rows = x.numel() // features
    warp, widest = (b // acc.itemsize for b in tile_bytes)  # elements
    scaled, groups = groups > 0, max(groups, 1)
    size = features // groups
    s = triton.next_power_of_2(size)
    if scaled and s <= widest:
        scaling, g = "tile", min(max(256 // s, 1), triton.next_power_of_2(groups))
    else:
        scaling, g, s = "given" if scaled else "none", 1, min(s, warp)
    r = min(max(4 * warp // (g * s), 1), triton.next_power_of_2(rows))
    tiles_per_group = triton.cdiv(size, s)
    tiles = triton.cdiv(groups, g) * tiles_per_group
    wanted = triton.cdiv(rows, max(4 * _processors(x.device) // tiles, 1))
    chunk_rows = min(triton.cdiv(max(wanted, 16), r) * r, 256 * r)  # at most 256 rows are summed in float32
    warps, chunks = max(r * g * s // warp, 1), triton.cdiv(rows, chunk_rows)
    return Tiling(rows, features, groups, scaling, (r, g, s), warps, tiles, tiles_per_group, chunk_rows, chunks)


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def partial_sums(plan: Tiling, count: int, like: Tensor) -> Tensor:
    return like.new_empty(plan.chunks * (count * plan.features + 1))


def finish(kernel: Any, plan: Tiling, *tensors: Tensor | None, **options: Any) -> None:
    """Launches a kernel that adds up partial sums, the first of its tensors."""
    grid = (triton.cdiv(plan.features, SUM_COLUMNS),)
    kernel[grid](*tensors, plan.chunks, plan.features, C=SUM_COLUMNS, R=SUM_ROWS, **options)
