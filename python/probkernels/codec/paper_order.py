"""The paper's algorithm for a circuit's conditionals, O(log D |p|) on a balanced vtree. For comparison, not for
coding."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch

from .._core.errors import message
from ..circuits import Circuit, Input, Product, Sum, find_vtree
from ..circuits.nodes import by_input, by_sum
from .program import probabilities

Array = np.ndarray


@dataclass
class PaperOrder:
    """Result of :func:`paper_conditionals`.

    Attributes:
        order: variables in coding order, the leaves of the vtree from left to right.
        conditionals: for each variable in this order, its distribution (C,) given the values of the earlier variables,
            float64.
        edges: number of sum edges that were evaluated. A decoder that searches for a value repeats those of its
            variable for each probe.

    Example:
        >>> from probkernels.codec import PaperOrder
        >>> PaperOrder([0]).edges
        0
    """

    order: list[int]
    conditionals: list[Array] = field(default_factory=list)
    edges: int = 0


def paper_conditionals(circuit: Circuit, row: list[int]) -> PaperOrder:
    """Computes the conditional distributions along a row of data by the paper's algorithm.

    For each variable the algorithm evaluates the nodes above it again, up to the smallest scope that holds all
    variables so far. Weights that do not depend on the data replace the rest of the way to the root. That visits at
    most |p| times the mean depth edges, where |p| is the number of edges; :class:`Program` visits 2 |p| whatever the
    vtree's shape. Products of several children are not folded.

    Args:
        circuit: structured-decomposable circuit with discrete variables.
        row: one value for each variable.

    Raises:
        ValueError: the circuit splits a scope in two ways, or the row has the wrong length.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022, algorithm 1.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> from probkernels.codec import paper_conditionals
        >>> circuit = factorized(torch.tensor([[0, 1], [1, 1], [1, 0], [1, 1]]), categories=2, pseudocount=0)
        >>> [p.round(2).tolist() for p in paper_conditionals(circuit, [1, 1]).conditionals]
        [[0.25, 0.75], [0.25, 0.75]]
    """
    order = list(find_vtree(circuit.graph).order)
    if len(row) != len(order):
        raise ValueError(message("paper_conditionals", "row", f"{len(order)} values", str(len(row))))
    evaluation = _Evaluation(circuit)
    found, seen = PaperOrder(order), 0
    for variable in order:
        seen |= 1 << variable
        joint = evaluation.query(variable, seen)  # (C,): with the values of those before
        found.conditionals.append(joint / joint.sum())
        evaluation.settle(row[variable])
    found.edges = evaluation.edges
    return found


class _Evaluation:
    """Values of all nodes as variables become known. Unknown variables count as 1."""

    def __init__(self, circuit: Circuit) -> None:
        self.graph, self.edges = circuit.graph, 0
        with torch.no_grad():
            weights = by_sum(circuit, circuit.weights())
            self.weights = {place: weight.double().cpu().numpy() for place, weight in weights.items()}
            self.tables = {place: probabilities(layer)[at] for place, (layer, at) in by_input(circuit).items()}
        self.values: list[Array] = [np.ones((units, 1)) for units in self.graph.units]
        self.by_scope: dict[int, list[int]] = defaultdict(list)
        for place, scope in enumerate(self.graph.scopes):
            self.by_scope[scope].append(place)
        self.above = self._top_down()

    def _top_down(self) -> list[Array]:
        """For each unit, the share of the root that it carries, from larger scopes down, if everything else is 1."""
        graph = self.graph
        whole = [np.zeros(units) for units in graph.units]
        outside = [np.zeros(units) for units in graph.units]
        whole[-1][:] = outside[-1][:] = 1
        for place in reversed(range(len(graph.nodes))):
            for child, share in self._shares(place, whole[place]):
                whole[child] += share
                if graph.scopes[child] != graph.scopes[place]:
                    outside[child] += share
        return outside

    def _shares(self, place: int, share: Array) -> list[tuple[int, Array]]:
        """The shares that a node passes to its children."""
        node = self.graph.nodes[place]
        if isinstance(node, Input):
            return []
        if isinstance(node, Product):
            if not node.outer:
                return [(child, share) for child in node.children]
            grid = share.reshape([self.graph.units[child] for child in node.children])
            return [(node.children[0], grid.sum(1)), (node.children[1], grid.sum(0))]
        passed, ends = share @ self.weights[place], np.cumsum([self.graph.units[child] for child in node.children])
        return list(zip(node.children, np.split(passed, ends[:-1]), strict=True))

    def query(self, variable: int, seen: int) -> Array:
        """(C,): joint probability of each value of a variable and the values settled so far."""
        lowest = min((scope for scope in self.by_scope if scope & seen == seen), key=int.bit_count)
        self.again = [
            place for place, scope in enumerate(self.graph.scopes)
            if scope >> variable & 1 and scope & lowest == scope
        ]  # fmt: skip
        for place in self.again:
            self.values[place] = self._value(place)
        return sum(self.above[place] @ self.values[place] for place in self.by_scope[lowest])

    def _value(self, place: int) -> Array:
        """(units, C), or (units, 1) if the node does not depend on the queried variable."""
        node = self.graph.nodes[place]
        if isinstance(node, Input):
            return self.tables[place].T
        parts = [self.values[child] for child in node.children]
        if isinstance(node, Sum):
            self.edges += self.weights[place].size
            width = max(part.shape[1] for part in parts)
            stacked = np.concatenate([np.broadcast_to(part, (len(part), width)) for part in parts])
            return self.weights[place] @ stacked
        if node.outer:
            return (parts[0][:, None] * parts[1][None]).reshape(self.graph.units[place], -1)
        return np.multiply.reduce(np.broadcast_arrays(*parts))

    def settle(self, value: int) -> None:
        """Fixes the value of the variable queried last."""
        for place in self.again:
            if self.values[place].shape[1] > 1:
                self.values[place] = self.values[place][:, value : value + 1]
