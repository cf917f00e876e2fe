"""Latent tree models in plain torch: log-likelihood and circuit flows (Liu, Mandt, Van den Broeck, ICLR 2022).

``tree`` has seven ints for each of N nodes, parents before children: parent (-1: the root), states K, variable (-1:
none), offset of its weights (K of the parent, K) (-1: no latent variable of its own, its variable hangs on the
parent's), offset of its leaves (C, K), categories C, children. p(x) = sum over z of prod p(z_n | z_parent) p(x_n | z).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """A node."""

    parent: int
    states: int
    variable: int
    weights: int
    leaves: int
    categories: int
    children: int


class Messages(NamedTuple):
    """What goes up the tree, a list item a node: (B, K) of a node itself, (B, K of the parent) of what it sends."""

    matrices: list[Tensor]  # empty without a latent variable
    products: list[Tensor]  # scaled: the largest entry of a row is 1
    sent: list[Tensor]
    log_prob: Tensor


def rows_of(tree: Sequence[int]) -> list[Row]:
    """The nodes of ``tree`` (7 N)."""
    size = len(Row._fields)
    return [Row(*tree[i : i + size]) for i in range(0, len(tree), size)]


def _table(flat: Tensor, offset: int, *shape: int) -> Tensor:
    return flat[offset : offset + torch.Size(shape).numel()].view(shape)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows over their largest entry, and its logarithm; rows of zeros stay."""
    largest = x.detach().amax(1, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    return x / largest, largest[:, 0].log()


def _upward(weights: Tensor, leaves: Tensor, codes: Tensor, rows: list[Row]) -> Messages:
    """Messages are linear: with zeros among them every derivative stays exact."""
    batch = codes.shape[1]
    products = [weights.new_ones(batch, row.states) for row in rows]
    sent, matrices = [*products], [weights[:0]] * len(rows)
    scale = weights.new_zeros(batch)
    for n, row in reversed(list(enumerate(rows))):
        above = rows[row.parent].states if n else 1
        if row.variable >= 0:
            x = codes[row.variable].long()[:, None]
            table = _table(leaves, row.leaves, row.categories, row.states)
            products[n] = products[n] * torch.where(x < 0, torch.ones_like(products[n]), table[x[:, 0].clamp(min=0)])
        products[n], more = _scaled(products[n])
        scale = scale + more
        sent[n] = products[n]
        if row.weights >= 0:
            matrices[n] = _table(weights, row.weights, above, row.states)
            sent[n] = products[n] @ matrices[n].t()
        if n:  # a state that cannot be is a constant: so are its flows
            possible = torch.where(sent[n] == 0, torch.zeros_like(sent[n]), sent[n])
            products[row.parent], more = _scaled(products[row.parent] * possible)
            scale = scale + more
    p = sent[0][:, 0]
    log_p = torch.where(p == 0, torch.ones_like(p), p).log()
    return Messages(matrices, products, sent, torch.where(p == 0, torch.full_like(p, -torch.inf), log_p + scale))


def latent_tree(weights: Tensor, log_leaves: Tensor, codes: Tensor, tree: Sequence[int]) -> Tensor:
    """weights (E), log_leaves (L), codes (V, B), -1 = missing, tree (7 N) -> log p (B)."""
    return _upward(weights, log_leaves.exp(), codes, rows_of(tree)).log_prob


def latent_tree_flows(
    weights: Tensor, leaves: Tensor, codes: Tensor, tree: Sequence[int], grad: Tensor | None, missing: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """weights (E), leaves (L), codes (V, B), tree (7 N), grad (B), default ones -> log p (B), the gradient of
    grad * log p in the weights (E), the flows of the leaves (L) and of missing observations (states of the observed
    nodes, or none if ``missing`` is 0)."""
    rows = rows_of(tree)
    up = _upward(weights, leaves, codes, rows)
    counted = torch.ones_like(up.log_prob) if grad is None else grad
    posteriors: list[Tensor] = []  # times the images' grad
    edges: list[tuple[Tensor, Tensor]] = []  # places among the weights, and what is added there
    seen_leaves: list[tuple[Tensor, Tensor]] = []  # the same among the leaves
    missing_flows = [weights.new_zeros(0)]
    for n, row in enumerate(rows):
        above = posteriors[row.parent] if n else counted[:, None]
        if row.weights < 0:
            posteriors.append(above)
        else:
            impossible = up.sent[n] == 0
            ratio = torch.where(impossible, torch.zeros_like(above), above / up.sent[n].masked_fill(impossible, 1))
            edge = ratio.t() @ up.products[n]
            edges.append((row.weights + torch.arange(edge.numel(), device=weights.device), edge))
            posteriors.append(up.products[n] * (ratio @ up.matrices[n]))
        if row.variable >= 0:
            x, q = codes[row.variable].long(), posteriors[n]
            seen = (x >= 0)[:, None]
            places = row.leaves + x.clamp(min=0)[:, None] * row.states + torch.arange(row.states, device=x.device)
            seen_leaves.append((places, q * seen))
            missing_flows.append((q * ~seen).sum(0))
    missing_flows = missing_flows if missing else missing_flows[:1]
    return up.log_prob, _added(weights, edges), _added(leaves, seen_leaves), torch.cat(missing_flows)


def _added(like: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A tensor of the shape of ``like``: for each term, its values at its places, and zeros elsewhere."""
    if not terms:
        return torch.zeros_like(like)
    places, values = (torch.cat([part.reshape(-1) for part in parts]) for parts in zip(*terms, strict=True))
    return torch.zeros_like(like).index_add(0, places, values)
