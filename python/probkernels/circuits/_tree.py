"""Finds latent trees, which one fused op evaluates. In a latent tree every sum has one child and every node one parent.
Only the root may have several children: it then mixes several trees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .graph import Graph, Input, Product, Sum

LEAVES = 4  # column of a table


@dataclass(frozen=True)
class LatentTree:
    """A circuit, or one child of its root, in the form that the op ``latent_tree`` takes.

    table: (N, 7) int64, parents first. A row is a latent, or a further variable of its parent's latent. Columns:
    parent, states, variable, offset of the weights, offset of the leaves, categories, number of children; -1 where
    there is none. Weight offsets count in the concatenation of all sum layers, leaf offsets from ``first`` in that of
    all input layers.
    first, last: the range of the concatenated input layers that holds all leaves.
    unseen: for each unit of the rows with a variable, in order, its index among the units of all input layers.
    """

    table: Tensor
    first: int
    last: int
    unseen: Tensor


@dataclass(frozen=True)
class Offsets:
    """Offsets by node: where the weights of sums, and the tables and units of inputs, begin."""

    weights: dict[int, int]
    leaves: dict[int, int]
    units: dict[int, int]


def find_trees(graph: Graph, offsets: Offsets) -> list[LatentTree]:
    """The latent trees that the root of ``graph`` mixes. Empty if any part of the graph is not a tree."""
    root = graph.nodes[-1]
    if not graph.is_tree or not isinstance(root, Sum):
        return []
    trees, at = [], offsets.weights[len(graph.nodes) - 1]
    for child in root.children:
        tree = _find_tree(graph, offsets, child, at)
        if tree is None:
            return []
        trees.append(tree)
        at += graph.units[child]
    return trees


def _find_tree(graph: Graph, offsets: Offsets, top: int, prior: int) -> LatentTree | None:
    """The tree below the root's child ``top``, whose weights in the root begin at ``prior``."""
    rows: list[list[int]] = []
    inputs: list[int] = []
    stack = [(top, -1, prior)]  # what a sum mixes, the row of its parent, where its weights begin
    while stack:
        place, parent, weights = stack.pop()
        parts = _parts(graph, place)
        if parts is None:
            return None
        leaves, below = parts
        states, here = graph.units[place], len(rows)
        rows.append([parent, states, *_variable(graph, offsets, leaves[0] if leaves else None, weights), 0])
        rows += [[here, states, *_variable(graph, offsets, leaf, -1), 0] for leaf in leaves[1:]]
        rows[here][-1] = len(rows) - here - 1 + len(below)
        inputs += leaves
        stack += [(graph.nodes[s].children[0], here, offsets.weights[s]) for s in reversed(below)]  # type: ignore[union-attr]
    first = min(offsets.leaves[place] for place in inputs)
    last = max(offsets.leaves[place] + _entries(graph, place) for place in inputs)
    table = torch.tensor(rows)
    table[:, LEAVES] -= first * (table[:, LEAVES] >= 0)
    units = [offsets.units[place] + k for place in inputs for k in range(graph.units[place])]
    return LatentTree(table, first, last, torch.tensor(units))


def _entries(graph: Graph, place: int) -> int:
    node = graph.nodes[place]
    assert isinstance(node, Input)
    return node.family.categories * node.units


def _parts(graph: Graph, place: int) -> tuple[list[int], list[int]] | None:
    """The factors of a sum's only child: the places of inputs, and of sums with one child. None if there are other
    factors. A sum directly below a sum counts as the only factor."""
    node = graph.nodes[place]
    if isinstance(node, Product) and node.outer:
        return None
    factors = node.children if isinstance(node, Product) else (place,)
    leaves = [f for f in factors if isinstance(graph.nodes[f], Input) and graph.nodes[f].family.discrete]  # type: ignore[union-attr]
    below = [f for f in factors if isinstance(graph.nodes[f], Sum) and len(graph.nodes[f].children) == 1]  # type: ignore[union-attr]
    return (leaves, below) if len(leaves) + len(below) == len(factors) else None


def _variable(graph: Graph, offsets: Offsets, place: int | None, weights: int) -> list[int]:
    """Columns variable, weight offset, leaf offset, categories."""
    if place is None:
        return [-1, weights, -1, 0]
    node = graph.nodes[place]
    assert isinstance(node, Input)
    return [node.variable, weights, offsets.leaves[place], node.family.categories]
