"""Vtrees: binary trees over the variables that say how a structured-decomposable circuit splits every scope."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .._core.errors import message
from .families import Family
from .graph import Graph, Product, variables_of
from .regions import from_regions

SHOWN = 24  # variables up to which a vtree prints itself whole


@dataclass(frozen=True, repr=False)
class Vtree:
    """A binary tree with one variable at each leaf.

    Args:
        nodes: nodes with children first and the root last. A leaf is its variable; an inner node is a pair of the
            indices of its left and right child.

    Raises:
        ValueError: a child does not come before its parent, a node has not exactly one parent, or the leaves are not
            the variables 0 .. D - 1, each once.

    Reference:
        Pipatsrisawat and Darwiche, New Compilation Languages Based on Structured Decomposability, AAAI 2008.

    Example:
        >>> from probkernels.circuits import Vtree
        >>> Vtree((2, 0, 1, (1, 2), (0, 3)))
        Vtree((2, (0, 1)))
        >>> Vtree.balanced(range(5)), Vtree.right_linear(range(4))
        (Vtree(((0, 1), (2, (3, 4)))), Vtree((0, (1, (2, 3)))))
        >>> Vtree.balanced(range(5)).depth
        3
    """

    nodes: tuple[int | tuple[int, int], ...]

    def __post_init__(self) -> None:
        parents = [0] * len(self.nodes)
        for place, node in enumerate(self.nodes):
            if not isinstance(node, int) and (not isinstance(node, tuple) or len(node) != 2):
                raise _wrong("variables and pairs of places", repr(node))
            for child in () if isinstance(node, int) else node:
                if not 0 <= child < place:
                    raise _wrong(f"children that come before node {place}", f"child {child}")
                parents[child] += 1
        for place, count in enumerate(parents):
            if count != (place < len(parents) - 1):
                raise _wrong("one parent of every node but the last", f"{count} of node {place}")
        if sorted(self.order) != list(range(len(self.order))) or not self.nodes:
            raise _wrong("variables 0 .. D - 1, each once", f"{list(self.order[:SHOWN])}")

    @classmethod
    def of(cls, nested: Any) -> Vtree:
        """Builds a vtree from nested pairs: ``Vtree.of(((0, 1), 2))``."""
        nodes: list[int | tuple[int, int]] = []
        done: list[int] = []  # places whose parent is to come
        stack: list[tuple[Any, bool]] = [(nested, False)]
        while stack:
            part, finished = stack.pop()
            if finished:
                right, left = done.pop(), done.pop()
                nodes.append((left, right))
            elif isinstance(part, int):
                nodes.append(part)
            elif isinstance(part, Sequence) and len(part) == 2:
                stack += [(part, True), (part[1], False), (part[0], False)]
                continue
            else:
                raise ValueError(message("Vtree.of", "nested", "pairs and variables", repr(part)))
            done.append(len(nodes) - 1)
        return cls(tuple(nodes))

    @classmethod
    def right_linear(cls, order: Iterable[int]) -> Vtree:
        """A vtree that splits the first variable of ``order`` from all that follow, then the second, and so on."""
        backwards = list(order)[::-1]
        nested: Any = backwards[0] if backwards else None
        for variable in backwards[1:]:
            nested = (variable, nested)
        return cls.of(nested) if backwards else cls(())

    @classmethod
    def balanced(cls, order: Iterable[int]) -> Vtree:
        """A vtree that cuts ``order`` into halves and each half again. Its depth is ⌈log2 D⌉."""
        given = list(order)
        return cls.of(_halved(given)) if given else cls(())

    @classmethod
    def random(cls, count: int, seed: int = 0) -> Vtree:
        """A random vtree over ``count`` variables: joins random pairs of subtrees."""
        generator = random.Random(seed)
        trees: list[Any] = list(range(count))
        while len(trees) > 1:
            left, right = (trees.pop(generator.randrange(len(trees))) for _ in range(2))
            trees.append((left, right))
        return cls.of(trees[0]) if trees else cls(())

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The variables from left to right."""
        found, stack = [], [len(self.nodes) - 1] if self.nodes else []
        while stack:
            node = self.nodes[stack.pop()]
            if isinstance(node, int):
                found.append(node)
            else:
                stack += [node[1], node[0]]
        return tuple(found)

    @property
    def num_variables(self) -> int:
        """Number of variables, D."""
        return (len(self.nodes) + 1) // 2

    @cached_property
    def scopes(self) -> tuple[int, ...]:
        """The variables below each node, as a bit mask."""
        scopes: list[int] = []
        for node in self.nodes:
            scopes.append(1 << node if isinstance(node, int) else scopes[node[0]] | scopes[node[1]])
        return tuple(scopes)

    @cached_property
    def depth(self) -> int:
        """Number of edges on the longest path from the root to a leaf."""
        depths: list[int] = []
        for node in self.nodes:
            depths.append(0 if isinstance(node, int) else 1 + max(depths[node[0]], depths[node[1]]))
        return depths[-1]

    def __repr__(self) -> str:
        if self.num_variables > SHOWN:
            return f"Vtree({self.num_variables} variables, depth {self.depth})"
        shown: list[Any] = []
        for node in self.nodes:
            shown.append(node if isinstance(node, int) else (shown[node[0]], shown[node[1]]))
        return f"Vtree({shown[-1]})"


def _wrong(expected: str, got: str) -> ValueError:
    return ValueError(message("Vtree", "nodes", expected, got))


def _halved(order: list[int]) -> Any:
    if len(order) == 1:
        return order[0]
    return _halved(order[: len(order) // 2]), _halved(order[len(order) // 2 :])


def find_vtree(graph: Graph) -> Vtree:
    """The vtree of a structured-decomposable circuit: it says how every scope is split.

    A product of more than two parts is folded pairwise, largest scopes first: (((1st, 2nd), 3rd), ...).

    Raises:
        ValueError: the circuit splits a scope in two ways. The message names the scope.

    Example:
        >>> from probkernels.circuits import Bernoulli, factorized_graph, find_vtree
        >>> find_vtree(factorized_graph([Bernoulli()] * 4))
        Vtree((((0, 1), 2), 3))
    """
    splits: dict[int, list[int]] = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node, Product) and len(node.children) > 1:
            parts = [graph.scopes[child] for child in node.children]
            if set(splits.setdefault(graph.scopes[place], parts)) != set(parts):
                names = [[variables_of(part) for part in way] for way in (splits[graph.scopes[place]], parts)]
                hint = "only structured-decomposable circuits have a vtree"
                got = f"{graph.scope(place)} as {names[0]} and as {names[1]}"
                raise ValueError(message("find_vtree", "graph", "one split of every scope", got, hint))
    nodes: list[int | tuple[int, int]] = []
    places: dict[int, int] = {}

    def add(scope: int, node: int | tuple[int, int]) -> None:
        nodes.append(node)
        places[scope] = len(nodes) - 1

    for variable in range(graph.num_variables):
        add(1 << variable, variable)
    for scope in sorted(splits, key=int.bit_count):
        first, *others = sorted(splits[scope], key=int.bit_count, reverse=True)
        for other in others:
            add(first | other, (places[first], places[other]))
            first |= other
    return Vtree(tuple(nodes))


def from_vtree(
    vtree: Vtree, families: Sequence[Family], units: int, *, inputs: int | None = None, outer: bool = False
) -> Graph:
    """A structured-decomposable graph: a sum of ``units`` units at each inner node of a vtree.

    Args:
        vtree: says how each scope is split.
        families: family of each variable's inputs.
        units: number of sum units of each inner node. The root has one.
        inputs: number of input units of each variable. None means ``units``.
        outer: True for Kronecker products (every pair of a left and a right unit), False for Hadamard products (unit by
            unit).

    Raises:
        ValueError: the number of families is wrong, or a number is below one.

    Example:
        >>> from probkernels.circuits import Categorical, Vtree, find_vtree, from_vtree
        >>> graph = from_vtree(Vtree.balanced(range(8)), [Categorical(3)] * 8, units=4)
        >>> graph
        Graph(22 nodes, 8 variables, 100 edges)
        >>> find_vtree(graph)
        Vtree((((0, 1), (2, 3)), ((4, 5), (6, 7))))
    """
    if len(families) != vtree.num_variables:
        raise ValueError(
            message("from_vtree", "families", f"{vtree.num_variables}, one a variable", f"{len(families)}")
        )
    splits = [node for node in vtree.nodes if not isinstance(node, int)]
    partitions = [[variables_of(vtree.scopes[child]) for child in node] for node in splits]
    return from_regions(partitions, families, units, inputs=inputs, outer=outer)
