"""Exact entropies, divergences and products of circuits. Results have gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import describe
from .._core.errors import message
from ..ops import sum_layer
from . import _layers
from .evaluator import Evaluator
from .graph import Graph, Input, Product, Sum
from .inputs import log_or_zero

# --- deterministic circuits: at most one term of a sum is nonzero, so that logarithms of sums fall apart ---


def entropy(circuit: Evaluator) -> Tensor:
    """See :meth:`Circuit.entropy`."""
    _require_deterministic("Circuit.entropy", circuit)
    leaves = [f.entropy(layer.log_table()) for f, layer in zip(circuit.families, circuit.inputs, strict=True)]
    own = [-(w * log_or_zero(w)).sum(2) for w in circuit.weights()]
    return _expectation(circuit, leaves, own)


def kl(circuit: Evaluator, other: Evaluator) -> Tensor:
    """See :meth:`Circuit.kl`."""
    _require_same("Circuit.kl", circuit, other)
    _require_deterministic("Circuit.kl", circuit)
    layers = zip(circuit.families, circuit.inputs, other.inputs, strict=True)
    leaves = [family.kl(p.log_table(), q.log_table()) for family, p, q in layers]
    own = []
    for p, q in zip(circuit.weights(), other.weights(), strict=True):
        own.append((p * (log_or_zero(p) - torch.where(p > 0, q, 1.0).log())).sum(2))
    return _expectation(circuit, leaves, own)


def _expectation(circuit: Evaluator, leaves: list[Tensor], own: list[Tensor]) -> Tensor:
    """The expectation (a scalar) of a sum of terms: ``leaves`` (V, K) for each input unit, ``own`` (G, O) for each sum
    unit's choice."""
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
    return _overlap(circuit, other).to(_dtype(circuit))


def _dtype(circuit: Evaluator) -> torch.dtype:
    return next((p.dtype for p in circuit.parameters()), torch.get_default_dtype())


def _overlap(circuit: Evaluator, other: Evaluator) -> Tensor:
    """The overlap in float64, so that differences of overlaps keep their digits."""
    _require_same("Circuit.overlap", circuit, other)
    graph = circuit.graph
    root = len(graph.nodes) - 1
    mine, its = _by_node(circuit), _by_node(other)
    found: dict[tuple[int, int], Tensor] = {}
    for a, b in sorted(_pairs(graph, root), key=sum):
        found[a, b] = _pair(graph, a, b, mine, its, found)
    return found[root, root][0, 0]


def _by_node(circuit: Evaluator) -> list[Tensor | None]:
    """The parameters of each node in float64: its table (C, K) if it is an input, its weights (O, I) if it is a sum,
    None if it is a product."""
    tables, weights = (layer.log_table() for layer in circuit.inputs), iter(circuit.weights())
    of_layer: list[Tensor | None] = []
    for kind in circuit.kinds:
        of_layer.append(next(tables) if kind is Input else next(weights) if kind is Sum else None)
    return [None if (values := of_layer[at]) is None else values[row].double() for at, row in circuit.places]


def _needs(graph: Graph, a: int, b: int) -> list[tuple[int, int]]:
    """The pairs of nodes that the product of nodes a and b is computed from. Both have the same scope."""
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
    """All pairs that the product of the two roots is computed from."""
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
    mine: list[Tensor | None],
    its: list[Tensor | None],
    found: dict[tuple[int, int], Tensor],
) -> Tensor:
    """(K_a, K_b): entry (i, j) is the log of the sum over x of unit i of a times unit j of b."""
    one, two = graph.nodes[a], graph.nodes[b]
    needed = [found[pair] for pair in _needs(graph, a, b)]
    if isinstance(one, Sum):
        weights = mine[a]
        assert weights is not None
        return sum_layer(torch.cat(needed).unsqueeze(0), weights.unsqueeze(0))[0]
    if isinstance(one, Product) and len(one.children) == 1:
        return needed[0]
    if isinstance(two, Sum):
        weights = its[b]
        assert weights is not None
        return sum_layer(torch.cat(needed, 1).t().unsqueeze(0), weights.unsqueeze(0))[0].t()
    if isinstance(two, Product) and len(two.children) == 1:
        return needed[0]
    if isinstance(one, Input):
        p, q = mine[a], its[b]
        assert p is not None and q is not None
        return one.family.log_inner_product(p, q)
    assert isinstance(one, Product) and isinstance(two, Product)
    total: Tensor | float = 0.0
    for child, matrix in zip(one.children, needed, strict=True):
        partner = next(c for c in two.children if graph.scopes[c] == graph.scopes[child])
        total = total + matrix[_unit_of(graph, one, child)][:, _unit_of(graph, two, partner)]
    assert isinstance(total, Tensor)
    return total


def _unit_of(graph: Graph, node: Product, child: int) -> Tensor:
    """For each unit of a product, the index of the unit of ``child`` that it multiplies."""
    if not node.outer:
        return torch.arange(graph.units[child])
    left, right = (torch.arange(graph.units[c]) for c in node.children)
    if child == node.children[0]:
        return left.repeat_interleave(len(right))
    return right.repeat(len(left))


def renyi_entropy(circuit: Evaluator) -> Tensor:
    """Renyi entropy of order 2 in nats, -log sum_x p(x)^2. It never exceeds the entropy.

    It has the cost, errors and gradients of :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized, renyi_entropy
        >>> coins = factorized(torch.tensor([[0, 0], [1, 1]]), pseudocount=0.0)
        >>> renyi_entropy(coins).detach() / torch.tensor(2.0).log()  # bits
        tensor(2.)
    """
    return -overlap(circuit, circuit)


def squared_distance(p: Evaluator, q: Evaluator) -> Tensor:
    """Squared L2 distance sum_x (p(x) - q(x))^2, a scalar.

    It has the cost, errors and gradients of :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized, squared_distance
        >>> p = factorized(torch.tensor([[0], [1]]), pseudocount=0.0)
        >>> q = factorized(torch.tensor([[0], [0]]), categories=2, pseudocount=0.0)
        >>> squared_distance(p, q).detach()
        tensor(0.5000)
    """
    distance = _overlap(p, p).exp() - 2 * _overlap(p, q).exp() + _overlap(q, q).exp()
    return distance.clamp_min(0.0).to(_dtype(p))


def cauchy_schwarz_divergence(p: Evaluator, q: Evaluator) -> Tensor:
    """Cauchy-Schwarz divergence: -log of the cosine of the angle between p and q as vectors. A scalar, 0 only if p = q.

    Unlike :meth:`Circuit.kl`, it needs no deterministic circuit. It has the cost, errors and gradients of
    :meth:`Circuit.overlap`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import cauchy_schwarz_divergence, factorized
        >>> p = factorized(torch.tensor([[0], [1]]), pseudocount=0.0)
        >>> round(cauchy_schwarz_divergence(p, p).item(), 6)
        0.0
    """
    divergence = (_overlap(p, p) + _overlap(q, q)) / 2 - _overlap(p, q)
    return divergence.clamp_min(0.0).to(_dtype(p))
