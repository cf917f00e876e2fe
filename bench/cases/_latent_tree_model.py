"""A latent tree of the shape that MNIST's has: 784 variables on a tree that spans the grid of pixels at random."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ..case import Inputs, Params

Rows = list[tuple[int, ...]]


def spanning_tree(side: int) -> list[list[int]]:
    """Neighbours of each cell of a grid in the spanning tree of greatest random weight (Prim's algorithm)."""
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
    neighbours = spanning_tree(side)
    rows: Rows = []
    stack, weights = [(side * side // 2 + side // 2, -1, -1)], 0
    while stack:
        variable, before, parent = stack.pop()
        children = [v for v in neighbours[variable] if v != before]
        latent = parent < 0 or bool(children)
        leaves = len(rows) * categories * states
        rows.append((parent, states, variable, weights if latent else -1, leaves, categories, len(children)))
        weights += latent * states * (states if parent >= 0 else 1)
        stack += [(v, variable, len(rows) - 1) for v in children]
    return rows


def edges(params: Params) -> int:
    """How many weights there are."""
    rows = hidden_tree(params["side"], params["states"], 1)
    return sum(row[1] * (row[1] if row[0] >= 0 else 1) for row in rows if row[3] >= 0)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """weights (E), log_leaves (L), codes (V, B) of which four in five are 0, as background is; tree: a list of rows."""
    states, categories = params["states"], params["categories"]
    rows = hidden_tree(params["side"], states, categories)
    generator = torch.Generator().manual_seed(0)

    def normalised(*shape: int, dim: int) -> Tensor:
        return (0.6 + 0.8 * torch.rand(shape, generator=generator)).log().softmax(dim).flatten()

    matrices = [normalised(states if row[0] >= 0 else 1, states, dim=1) for row in rows if row[3] >= 0]
    tables = normalised(len(rows), categories, states, dim=1)
    shape = params["side"] ** 2, params["batch"]
    codes = torch.randint(1, categories, shape, generator=generator, dtype=torch.int32)
    codes[torch.rand(shape, generator=generator) < 0.8] = 0
    return {
        "weights": torch.cat(matrices).to(device, dtype),
        "log_leaves": tables.to(device, dtype).log(),
        "codes": codes.to(device),
        "tree": rows,
    }
