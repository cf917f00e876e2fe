"""A latent tree of the shape that MNIST's has: 784 variables on a tree that spans the grid of pixels at random."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ..case import Inputs, Params

Rows = list[tuple[int, ...]]


def spanning_tree(side: int) -> list[list[int]]:
    """Neighbors of each cell of a grid in the spanning tree of greatest random weight (Prim's algorithm)."""
    rng = random.Random(0)
    weight: dict[tuple[int, int], float] = {}
    grid: list[list[int]] = [[] for _ in range(side * side)]
    for a in range(side * side):
        for b in ([a + 1] if a % side + 1 < side else []) + ([a + side] if a + side < side * side else []):
            weight[a, b] = weight[b, a] = rng.random()
            grid[a].append(b)
            grid[b].append(a)
    tree: list[list[int]] = [[] for _ in grid]
    inside = {0}
    while len(inside) < len(grid):
        edge = max(((a, b) for a in inside for b in grid[a] if b not in inside), key=weight.__getitem__)
        inside.add(edge[1])
        tree[edge[0]].append(edge[1])
        tree[edge[1]].append(edge[0])
    return tree


def hidden_tree(side: int, states: int, categories: int) -> Rows:
    """The rows of an HCLT: the leaves of the spanning tree have no latent variable of their own."""
    neighbors = spanning_tree(side)
    rows: Rows = []
    stack, weights = [(side * side // 2 + side // 2, -1, -1)], 0
    while stack:
        variable, before, parent = stack.pop()
        children = [v for v in neighbors[variable] if v != before]
        latent = parent < 0 or bool(children)
        leaves = len(rows) * categories * states
        rows.append((parent, states, variable, weights if latent else -1, leaves, categories, len(children)))
        weights += latent * states * (states if parent >= 0 else 1)
        stack += [(v, variable, len(rows) - 1) for v in children]
    return rows


def hub(side: int, states: int, categories: int) -> Rows:
    """Every variable hangs on one hub by a latent variable of its own, as the background of images does."""
    count, table = side * side, categories * states
    rows: Rows = [(-1, states, 0, 0, 0, categories, count - 1)]
    for v in range(1, count):
        rows.append((0, states, v, states + (v - 1) * states**2, v * table, categories, 0))
    return rows


def rows_of(params: Params, categories: int) -> Rows:
    """The tree that a point asks for."""
    shape = hub if params.get("tree") == "hub" else hidden_tree
    return shape(params["side"], params["states"], categories)


def edges(params: Params) -> int:
    """How many weights there are."""
    rows = rows_of(params, 1)
    return sum(row[1] * (row[1] if row[0] >= 0 else 1) for row in rows if row[3] >= 0)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """weights (E), log_leaves (L), codes (V, B) of which four in five are 0, as background is; tree: a list of rows."""
    states, categories = params["states"], params["categories"]
    rows = rows_of(params, categories)
    generator = torch.Generator().manual_seed(0)

    def normalized(*shape: int, dim: int) -> Tensor:
        return (0.6 + 0.8 * torch.rand(shape, generator=generator)).log().softmax(dim).flatten()

    matrices = [normalized(states if row[0] >= 0 else 1, states, dim=1) for row in rows if row[3] >= 0]
    tables = normalized(len(rows), categories, states, dim=1)
    shape = params["side"] ** 2, params["batch"]
    codes = torch.randint(1, categories, shape, generator=generator, dtype=torch.int32)
    codes[torch.rand(shape, generator=generator) < 0.8] = 0
    return {
        "weights": torch.cat(matrices).to(device, dtype),
        "log_leaves": tables.to(device, dtype).log(),
        "codes": codes.to(device),
        "tree": rows,
    }
