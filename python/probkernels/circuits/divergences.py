"""Entropies, divergences and products of circuits, exact. Results have gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.checks import describe
from .._core.errors import message
from ..ops import sum_layer
from . import _layers
from .evaluator import Evaluator
from .graph import Graph, Input, Product, Sum
from .inputs import GaussianInputs, Inputs


def _log(p: Tensor) -> Tensor:
    """log p, and 0 where p is zero: for p log p, without the NaN in the gradient."""
    return torch.where(p > 0, p, 1.0).log()


# --- deterministic circuits: at most one term of a sum is nonzero, so that logarithms of sums fall apart ---


def entropy(circuit: Evaluator) -> Tensor:
    """See :meth:`Circuit.entropy`."""
    _require_deterministic("Circuit.entropy", circuit)
    leaves = [_input_entropy(layer) for layer in circuit.inputs]
    own = [-(w * _log(w)).sum(2) for w in circuit.weights()]
    return _expectation(circuit, leaves, own)


def kl(circuit: Evaluator, other: Evaluator) -> Tensor:
    """See :meth:`Circuit.kl`."""
    _require_same("Circuit.kl", circuit, other)
    _require_deterministic("Circuit.kl", circuit)
    leaves = [_input_kl(p, q) for p, q in zip(circuit.inputs, other.inputs, strict=True)]
    own = []
    for p, q in zip(circuit.weights(), other.weights(), strict=True):
        own.append((p * (_log(p) - torch.where(p > 0, q, 1.0).log())).sum(2))
    return _expectation(circuit, leaves, own)


def _expectation(circuit: Evaluator, leaves: list[Tensor], own: list[Tensor]) -> Tensor:
    """The expectation of what adds up along edges, (): of each input unit (V, K) and each sum unit's choice (G, O)."""
    values: list[Tensor] = []
    leaf, term, weight = iter(leaves), iter(own), iter(circuit.weights())
    for layer, kind in zip(circuit.layers, circuit.kinds, strict=True):
        if kind is Input:
            values.append(next(leaf).unsqueeze(2))
        elif kind is Sum:
            below = _layers.concatenate(layer, values).transpose(1, 2)  # (G, 1, I)
            w = next(weight)
            mixed = (w * torch.where(w > 0, below, 0.0)).sum(2)  # below an edge of weight 0 it may be infinite
            values.append((next(term) + mixed).unsqueeze(2))
        else:
            values.append(_layers.multiply(layer, values))
    return values[-1][0, 0, 0]


def _input_entropy(layer: Any) -> Tensor:
    if isinstance(layer, GaussianInputs):
        return layer.log_scale + 0.5 * math.log(2 * math.pi * math.e)
    p = layer.log_table().exp()
    return -(p * _log(p)).sum(1)


def _input_kl(layer: Any, other: Any) -> Tensor:
    mine, its = layer.log_table(), other.log_table()
    if isinstance(layer, GaussianInputs):
        ratio, apart = mine[1] - its[1], (mine[0] - its[0]) * (-its[1]).exp()
        return 0.5 * ((2 * ratio).exp() + apart.square() - 1) - ratio
    p = mine.exp()
    seen = p > 0
    return (p * (torch.where(seen, mine, 0.0) - torch.where(seen, its, 0.0))).sum(1)


def _require_deterministic(op: str, circuit: Evaluator) -> None:
    if not circuit.is_deterministic:
        hint = "renyi_entropy(circuit), or the mean of log_prob over samples as an estimate"
        raise NotImplementedError(message(op, "self", "a deterministic circuit, as chow_liu() builds", "another", hint))


def _require_same(op: str, circuit: Evaluator, other: object) -> None:
    if not isinstance(other, type(circuit)):
        raise TypeError(message(op, "other", "a circuit", describe(other)))
    if other.graph != circuit.graph:
        hint = "load other parameters into a circuit of the same graph"
        raise ValueError(message(op, "other", "a circuit of the same graph", repr(other.graph), hint))


# --- products of two circuits, by recursion over pairs of nodes of one scope ---


def overlap(circuit: Evaluator, other: Evaluator) -> Tensor:
    """See :meth:`Circuit.overlap`."""
    _require_same("Circuit.overlap", circuit, other)
    graph = circuit.graph
    root = len(graph.nodes) - 1
    mine, its = _by_node(circuit), _by_node(other)
    found: dict[tuple[int, int], Tensor] = {}
    for a, b in sorted(_pairs(graph, root), key=sum):
        found[a, b] = _pair(graph, a, b, mine, its, found)
    return found[root, root][0, 0]


def _by_node(circuit: Evaluator) -> list[tuple[Inputs | None, Tensor | None]]:
    """Of every node its layer of inputs and its row of the table or the weights: (C, K), (2, K) or (O, I)."""
    inputs, weights = iter(circuit.inputs), iter(circuit.weights())
    of_layer: list[tuple[Inputs | None, Tensor | None]] = []
    for kind in circuit.kinds:
        if kind is Input:
            layer = next(inputs)
            table = layer.log_table()
            of_layer.append((layer, table.transpose(0, 1) if isinstance(layer, GaussianInputs) else table))
        else:
            of_layer.append((None, next(weights) if kind is Sum else None))
    return [
        (of_layer[at][0], None if (values := of_layer[at][1]) is None else values[row]) for at, row in circuit.places
    ]


def _needs(graph: Graph, a: int, b: int) -> list[tuple[int, int]]:
    """The pairs of nodes that the pair (a, b) is made of; the two have one scope."""
    one, two = graph.nodes[a], graph.nodes[b]
    if isinstance(one, Sum) or (isinstance(one, Product) and len(one.children) == 1):
        return [(child, b) for child in one.children]
    if isinstance(two, Sum) or (isinstance(two, Product) and len(two.children) == 1):
        return [(a, child) for child in two.children]
    if isinstance(one, Input):
        return []
    assert isinstance(two, Product)
    by_scope = {graph.scopes[child]: child for child in two.children}
    if by_scope.keys() != {graph.scopes[child] for child in one.children}:
        got = f"nodes {a} and {b}, which split one scope differently"
        raise NotImplementedError(message("Circuit.overlap", "self", "a structured-decomposable circuit", got))
    return [(child, by_scope[graph.scopes[child]]) for child in one.children]


def _pairs(graph: Graph, root: int) -> set[tuple[int, int]]:
    """All pairs that the pair of roots is made of."""
    stack, seen = [(root, root)], {(root, root)}
    while stack:
        new = [pair for pair in _needs(graph, *stack.pop()) if pair not in seen]
        seen.update(new)
        stack += new
    return seen


def _pair(
    graph: Graph,
    a: int,
    b: int,
    mine: list[tuple[Inputs | None, Tensor | None]],
    its: list[tuple[Inputs | None, Tensor | None]],
    found: dict[tuple[int, int], Tensor],
) -> Tensor:
    """(K_a, K_b): log of the sum over x of unit i of a times unit j of b."""
    one, two = graph.nodes[a], graph.nodes[b]
    needed = [found[pair] for pair in _needs(graph, a, b)]
    if isinstance(one, Sum):
        weights = mine[a][1]
        assert weights is not None
        return sum_layer(torch.cat(needed).unsqueeze(0), weights.unsqueeze(0))[0]
    if isinstance(one, Product) and len(one.children) == 1:
        return needed[0]
    if isinstance(two, Sum):
        weights = its[b][1]
        assert weights is not None
        return sum_layer(torch.cat(needed, 1).t().unsqueeze(0), weights.unsqueeze(0))[0].t()
    if isinstance(two, Product) and len(two.children) == 1:
        return needed[0]
    if isinstance(one, Input):
        return _input_overlap(mine[a], its[b])
    assert isinstance(one, Product) and isinstance(two, Product)
    total: Tensor | float = 0.0
    for child, matrix in zip(one.children, needed, strict=True):
        partner = next(c for c in two.children if graph.scopes[c] == graph.scopes[child])
        total = total + matrix[_unit_of(graph, one, child)][:, _unit_of(graph, two, partner)]
    assert isinstance(total, Tensor)
    return total


def _unit_of(graph: Graph, node: Product, child: int) -> Tensor:
    """Which unit of ``child`` every unit of a product multiplies."""
    if not node.outer:
        return torch.arange(graph.units[child])
    left, right = (torch.arange(graph.units[c]) for c in node.children)
    if child == node.children[0]:
        return left.repeat_interleave(len(right))
    return right.repeat(len(left))


def _input_overlap(one: tuple[Inputs | None, Tensor | None], two: tuple[Inputs | None, Tensor | None]) -> Tensor:
    p, q = one[1], two[1]
    assert p is not None and q is not None
    if isinstance(one[0], GaussianInputs):  # the density of a difference of normal variables at 0
        apart = p[0, :, None] - q[0]
        variance = (2 * p[1, :, None]).exp() + (2 * q[1]).exp()
        return -0.5 * (apart.square() / variance + variance.log() + math.log(2 * math.pi))
    return sum_layer(q.unsqueeze(0), p.exp().t().unsqueeze(0).contiguous())[0]


def renyi_entropy(circuit: Evaluator) -> Tensor:
    """Renyi's entropy of order 2, -log sum_x p(x)^2 in nats: at most the entropy. Costs and errors as
    :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorised, renyi_entropy
        >>> coins = factorised(torch.tensor([[0, 0], [1, 1]]), pseudocount=0.0)
        >>> renyi_entropy(coins).detach() / torch.tensor(2.0).log()  # bits
        tensor(2.)
    """
    return -overlap(circuit, circuit)


def squared_distance(p: Evaluator, q: Evaluator) -> Tensor:
    """sum_x (p(x) - q(x))^2, (). Costs and errors as :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorised, squared_distance
        >>> p = factorised(torch.tensor([[0], [1]]), pseudocount=0.0)
        >>> q = factorised(torch.tensor([[0], [0]]), categories=2, pseudocount=0.0)
        >>> squared_distance(p, q).detach()
        tensor(0.5000)
    """
    return overlap(p, p).exp() - 2 * overlap(p, q).exp() + overlap(q, q).exp()


def cauchy_schwarz_divergence(p: Evaluator, q: Evaluator) -> Tensor:
    """-log of the cosine of the angle between p and q as vectors, (): 0 if and only if they are equal. Unlike
    Kullback and Leibler's it is exact for circuits that are not deterministic. Costs and errors as
    :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import cauchy_schwarz_divergence, factorised
        >>> p = factorised(torch.tensor([[0], [1]]), pseudocount=0.0)
        >>> round(cauchy_schwarz_divergence(p, p).item(), 6)
        0.0
    """
    return (overlap(p, p) + overlap(q, q)) / 2 - overlap(p, q)
