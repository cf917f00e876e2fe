"""Latent tree models to test with: random ones, and the toy model of the paper's oracles."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests import backends

NONE = -1
TOY_DATA = torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2], [0, 0, 0, 1]], dtype=torch.int32).t().contiguous()
each_kernel = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(bool(why := backends.skip_reason(kind)), reason=str(why)))
        for kind in ("cpu", "cuda_emu")
    ],
)


@dataclass(frozen=True)
class Model:
    """A tree (N, 7) with weights (E) and leaves (L), float64."""

    tree: Tensor
    weights: Tensor
    leaves: Tensor

    @property
    def categories(self) -> list[int]:
        """Of every variable."""
        observed = {row[2]: row[5] for row in self.tree.tolist() if row[2] >= 0}
        return [observed.get(v, 1) for v in range(max(observed, default=-1) + 1)]

    @property
    def missing(self) -> int:
        return sum(row[1] for row in self.tree.tolist() if row[2] >= 0)

    def matrix(self, flat: Tensor, n: int) -> Tensor:
        """Node n's part (states of the parent, states) of a tensor like ``weights``."""
        parent, states, _, at, *_ = self.tree[n].tolist()
        above = 1 if parent < 0 else int(self.tree[parent, 1])
        return flat[at : at + above * states].view(above, states)

    def table(self, flat: Tensor, n: int) -> Tensor:
        """Node n's part (categories, states) of a tensor like ``leaves``."""
        _, states, _, _, at, categories, _ = self.tree[n].tolist()
        return flat[at : at + categories * states].view(categories, states)

    def codes(self, batch: int, missing: float = 0.2) -> Tensor:
        """Random codes (V, batch) int32, a share of them missing."""
        rows = [torch.randint(c, (batch,), dtype=torch.int32) for c in self.categories]
        codes = torch.stack(rows) if rows else torch.zeros(0, batch, dtype=torch.int32)
        return codes.masked_fill(torch.rand(codes.shape) < missing, NONE)


def build(nodes: list[tuple[int, int, int, int, bool]]) -> Model:
    """Nodes as (parent, states, variable, categories, latent), with random normalized parameters."""
    rows, weights, leaves = [], [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for n, (parent, states, variable, categories, latent) in enumerate(nodes):
        above = nodes[parent][1] if n else 1
        children = sum(node[0] == n for node in nodes[1:])
        at = [sum(t.numel() for t in flat) for flat in (weights, leaves)]
        rows.append(
            [parent, states, variable, at[0] if latent else NONE, at[1] if variable >= 0 else NONE, 0, children]
        )
        if latent:
            weights.append((0.1 + torch.rand(above, states, dtype=torch.float64)).softmax(1).flatten())
        if variable >= 0:
            rows[n][5] = categories
            leaves.append((3 * torch.rand(categories, states, dtype=torch.float64)).softmax(0).flatten())
    return Model(torch.tensor(rows), torch.cat(weights), torch.cat(leaves))


def random_model(nodes: int, states: list[int], categories: int = 5, seed: int = 0) -> Model:
    """Every kind of node; variables in random order."""
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    described: list[tuple[int, int, int, int, bool]] = []
    for n in range(nodes):
        latent_ones = [i for i, node in enumerate(described) if node[4]]
        parent = latent_ones[-1 - below(min(3, len(latent_ones)))] if n else NONE
        latent = n == 0 or below(3) > 0
        described.append((parent, states[below(len(states))] if latent else described[parent][1], NONE, 0, latent))
    shuffled = torch.randperm(nodes, generator=generator).tolist()
    variables = [v for n, v in enumerate(shuffled) if not (described[n][4] and v % 5 == 4)]
    names = {v: i for i, v in enumerate(sorted(variables))}
    described = [
        (p, k, names.get(shuffled[n], NONE), 1 + below(categories), latent)
        for n, (p, k, _, _, latent) in enumerate(described)
    ]
    return build(described)


def brute_force(model: Model, x: list[int]) -> float:
    """p(x) by enumeration of all latent states, with nothing but the definition."""
    rows = model.tree.tolist()
    latent = [n for n, row in enumerate(rows) if row[3] >= 0]
    total = 0.0
    for states in itertools.product(*(range(rows[n][1]) for n in latent)):
        z = dict(zip(latent, states, strict=True))
        factors = []
        for n, (parent, *_, variable, weights_at, _, _, _) in enumerate(rows):
            own = n if weights_at >= 0 else parent
            if weights_at >= 0:
                factors.append(model.matrix(model.weights, n)[z[parent] if n else 0, z[n]].item())
            if variable >= 0 and x[variable] != NONE:
                factors.append(model.table(model.leaves, n)[x[variable], z[own]].item())
        total += math.prod(factors)
    return total


def toy() -> Model:
    """Four variables of three categories; the latent variables of 1 (the root) and 2 have two states."""
    leaves = [
        [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]],
        [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],
        [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]],
        [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]],
    ]
    tree = [[-1, 2, 1, 0, 0, 3, 2], [0, 2, 0, -1, 6, 3, 0], [0, 2, 2, 2, 12, 3, 1], [2, 2, 3, -1, 18, 3, 0]]
    weights = torch.tensor([0.6, 0.4, 0.9, 0.1, 0.25, 0.75], dtype=torch.float64)
    tables = torch.tensor(leaves, dtype=torch.float64).transpose(1, 2).reshape(-1)  # (categories, states)
    return Model(torch.tensor(tree), weights, tables)
