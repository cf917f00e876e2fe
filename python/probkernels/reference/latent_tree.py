"""Latent tree models in plain torch: log-likelihood and circuit flows (Liu, Mandt, Van den Broeck, ICLR 2022).

``tree`` has seven ints for each of N nodes, parents before children: parent (-1: the root), states K, variable (-1:
none), offset of its weights (K of the parent, K) (-1: no latent variable; its variable then depends on the parent's),
offset of its leaves (C, K), categories C, number of children. p(x) = sum over z of prod p(z_n | z_parent) p(x_n | z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """A node of the tree."""

    parent: int
    states: int
    variable: int
    weights: int
    leaves: int
    categories: int
    children: int


class Scaled(NamedTuple):
    """Numbers >= 0 of any size: ``x * 2**exponent``. Each entry has its own exponent, which is a constant for
    derivatives."""

    x: Tensor
    exponent: Tensor  # whole numbers in float64


class Messages(NamedTuple):
    """The messages up the tree, one list item for each node: (B, K) at the node itself, (B, K of the parent) to its
    parent."""

    matrices: list[Tensor]  # empty without a latent variable
    products: list[Scaled]
    sent: list[Scaled]
    relative: list[Tensor]  # (B, K of the parent, K): two to the exponents of a product over those of what is sent
    log_prob: Tensor


def rows_of(tree: Sequence[int]) -> list[Row]:
    """The nodes of ``tree`` (7 N)."""
    size = len(Row._fields)
    return [Row(*tree[i : i + size]) for i in range(0, len(tree), size)]


def _table(flat: Tensor, offset: int, *shape: int) -> Tensor:
    return flat[offset : offset + torch.Size(shape).numel()].view(shape)


def _times(a: Scaled, b: Tensor, exponent: Tensor | None = None) -> Scaled:
    """The product with ``b * 2**exponent``, rescaled so that each entry is about 1. Zeros stay."""
    x, so_far = a.x * b, a.exponent if exponent is None else a.exponent + exponent
    more = _exponent(x)
    return Scaled(x / _power(more, x), so_far + more)


def _exponent(x: Tensor) -> Tensor:
    """The whole number nearest to log2 |x|, in float64. 0 for zeros and non-finite numbers."""
    x = x.detach()
    plain = (x != 0) & x.isfinite()
    return torch.where(plain, x.abs(), torch.ones_like(x)).double().log2().round()


def _power(exponent: Tensor, like: Tensor) -> Tensor:
    """2**exponent, clamped to the range of the dtype."""
    most = math.frexp(torch.finfo(like.dtype).max)[1] - 2
    return torch.exp2(exponent.clamp(-most, most).to(like.dtype))


def _send(e: Scaled, matrix: Tensor) -> tuple[Scaled, Tensor]:
    """e (B, K), matrix (O, K) -> sums (B, O), each with the exponent of its largest term, and 2 to the exponents of e
    relative to those, (B, O, K)."""
    reached = (matrix > 0) & (e.x != 0)[:, None]
    exponent = torch.where(reached, e.exponent[:, None] + _exponent(matrix), -torch.inf).amax(2)
    exponent = torch.where(exponent.isfinite(), exponent, 0.0)
    relative = _power(e.exponent[:, None] - exponent[:, :, None], e.x)
    relative = torch.where((e.x != 0)[:, None], relative, torch.ones_like(relative))  # zero, whatever its exponent
    return Scaled((relative * e.x[:, None] * matrix).sum(2), exponent), relative


def _upward(weights: Tensor, leaves: Tensor, codes: Tensor, rows: list[Row]) -> Messages:
    """Messages are linear, not logarithms, so every derivative stays exact where they are zero. Every state has its own
    exponent, because one factor may make small what another makes large again."""
    batch = codes.shape[1]
    ones = [weights.new_ones(batch, row.states) for row in rows]
    products = [Scaled(one, one.new_zeros(one.shape, dtype=torch.float64)) for one in ones]
    sent, matrices, relative = [*products], [weights[:0]] * len(rows), [weights[:0]] * len(rows)
    for n, row in reversed(list(enumerate(rows))):
        above = rows[row.parent].states if n else 1
        if row.variable >= 0:
            x = codes[row.variable].long()[:, None]
            table = _table(leaves, row.leaves, row.categories, row.states)
            products[n] = _times(products[n], torch.where(x < 0, ones[n], table[x[:, 0].clamp(min=0)]))
        sent[n] = products[n]
        if row.weights >= 0:
            matrices[n] = _table(weights, row.weights, above, row.states)
            sent[n], relative[n] = _send(products[n], matrices[n])
        if n:  # a state that cannot be is a constant: so are its flows
            possible = torch.where(sent[n].x == 0, torch.zeros_like(sent[n].x), sent[n].x)
            products[row.parent] = _times(products[row.parent], possible, sent[n].exponent)
    p = sent[0].x[:, 0]
    log_p = torch.where(p == 0, torch.ones_like(p), p).log() + math.log(2) * sent[0].exponent[:, 0].to(p.dtype)
    return Messages(matrices, products, sent, relative, torch.where(p == 0, torch.full_like(p, -torch.inf), log_p))


def latent_tree(weights: Tensor, log_leaves: Tensor, codes: Tensor, tree: Sequence[int]) -> Tensor:
    """weights (E), log_leaves (L), codes (V, B), -1 = missing, tree (7 N) -> log p (B)."""
    return _upward(weights, log_leaves.exp(), codes, rows_of(tree)).log_prob


def latent_tree_flows(
    weights: Tensor, leaves: Tensor, codes: Tensor, tree: Sequence[int], grad: Tensor | None, missing: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """weights (E), leaves (L), codes (V, B), tree (7 N), grad (B) or ones -> log p (B), the gradient of grad * log p
    with respect to the weights (E), the flows of the leaves (L), and the flows of missing observations (states of the
    observed nodes; empty if ``missing`` is 0)."""
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
            impossible = up.sent[n].x == 0
            ratio = torch.where(impossible, torch.zeros_like(above), above / up.sent[n].x.masked_fill(impossible, 1))
            most = torch.finfo(ratio.dtype).max  # that of a weight of zero may be larger
            used = (ratio[:, :, None] * (up.relative[n] * up.products[n].x[:, None])).clamp(-most, most)
            edges.append((row.weights + torch.arange(up.matrices[n].numel(), device=weights.device), used.sum(0)))
            posteriors.append((used * up.matrices[n]).sum(1))
        if row.variable >= 0:
            x, q = codes[row.variable].long(), posteriors[n]
            seen = (x >= 0)[:, None]
            places = row.leaves + x.clamp(min=0)[:, None] * row.states + torch.arange(row.states, device=x.device)
            seen_leaves.append((places, q * seen))
            missing_flows.append((q * ~seen).sum(0))
    missing_flows = missing_flows if missing else missing_flows[:1]
    return up.log_prob, _added(weights, edges), _added(leaves, seen_leaves), torch.cat(missing_flows)


def _added(like: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A tensor of the shape of ``like`` with each term's values at its places, and zeros elsewhere."""
    if not terms:
        return torch.zeros_like(like)
    places, values = (torch.cat([part.reshape(-1) for part in parts]) for parts in zip(*terms, strict=True))
    return torch.zeros_like(like).index_add(0, places, values)
