"""The structure of a circuit: vector nodes and the rules they obey.

A node computes a vector of ``units`` numbers, called units, that share one scope (set of variables). Nodes are in
topological order, children first. The last node is the root and has one unit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .._core.errors import message
from .families import Family, family_from_json, family_to_json


@dataclass(frozen=True)
class Input:
    """A node of ``units`` distributions of one variable.

    Attributes:
        variable: index of the variable, from 0.
        units: number of distributions; each has its own parameters.
        family: kind of the distributions.

    Example:
        >>> from probkernels.circuits import Categorical, Input
        >>> Input(variable=0, units=2, family=Categorical(3)).units
        2
    """

    variable: int
    units: int
    family: Family


@dataclass(frozen=True)
class Product:
    """A node that multiplies its children, whose scopes are disjoint. ``children`` holds the indices of their nodes.

    Unit k multiplies unit k of each child. With ``outer``, the node has exactly two children: unit i * K + j multiplies
    unit i of the first child and unit j of the second, where K is the number of units of the second.

    Example:
        >>> from probkernels.circuits import Product
        >>> Product(children=(0, 1)).outer
        False
    """

    children: tuple[int, ...]
    outer: bool = False


@dataclass(frozen=True)
class Sum:
    """A node whose units are weighted sums of all units of all children. The children have the same scope; ``children``
    holds the indices of their nodes.

    The weights have shape (units, total units of the children).

    ``edge_mask`` has one row for each unit. True marks a weight that is an edge; other weights are zero. None means
    that all weights are edges.

    Example:
        >>> from probkernels.circuits import Sum
        >>> Sum(children=(2,), units=1).edge_mask is None
        True
    """

    children: tuple[int, ...]
    units: int
    edge_mask: tuple[tuple[bool, ...], ...] | None = field(default=None, repr=False)


Node = Input | Product | Sum
EDGES = {"0": False, "1": True}  # in a description


class Graph:
    """An immutable, valid circuit structure.

    Valid means smooth (the children of a sum have the same scope, their set of variables), decomposable (the children
    of a product have disjoint scopes), and without unused nodes.

    Args:
        nodes: nodes in topological order; children are given by their index. The last node is the root and has one
            unit.

    Raises:
        TypeError: an entry is not a node.
        ValueError: a child does not come before its parent, numbers of units do not fit, scopes overlap below a product
            or differ below a sum, a node has no parent, the root has several units, or variables are not 0 .. D - 1.
            The message names the node.

    Example:
        >>> from probkernels.circuits import Categorical, Graph, Input, Product, Sum
        >>> coins = [Input(v, 2, Categorical(2)) for v in range(3)]
        >>> graph = Graph([*coins, Product((0, 1, 2)), Sum((3,), units=1)])
        >>> graph.num_variables, graph.num_edges, graph.is_structured_decomposable
        (3, 2, True)
        >>> Graph([*coins, Product((0, 1, 1)), Sum((3,), units=1)])
        Traceback (most recent call last):
        ...
        ValueError: Graph: node 3 (Product): expected children of disjoint scopes, got variable 1 in two of them
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes: tuple[Node, ...] = tuple(nodes)
        if not self.nodes:
            raise ValueError(message("Graph", "nodes", "at least one node", "none"))
        self.units: list[int] = []  # of every node
        self.scopes: list[int] = []  # of every node, as bits
        for place, node in enumerate(self.nodes):
            if not isinstance(node, (Input, Product, Sum)):
                raise TypeError(message("Graph", f"nodes[{place}]", "Input, Product or Sum", type(node).__name__))
            self._add(place, node)
        self._check_whole()

    def _fail(self, place: int, expected: str, got: str) -> ValueError:
        return ValueError(f"Graph: node {place} ({type(self.nodes[place]).__name__}): expected {expected}, got {got}")

    def _add(self, place: int, node: Node) -> None:
        if isinstance(node, Input):
            self._add_input(place, node)
            return
        if not node.children:
            raise self._fail(place, "at least one child", "none")
        for child in node.children:
            if not 0 <= child < place:
                raise self._fail(place, "children that come before it", f"child {child}")
        if isinstance(node, Product):
            self._add_product(place, node)
        else:
            self._add_sum(place, node)

    def _add_input(self, place: int, node: Input) -> None:
        if not isinstance(node.family, Family):
            raise TypeError(message("Graph", f"nodes[{place}].family", "a family", type(node.family).__name__))
        if not 0 <= node.variable < len(self.nodes):  # a huge one would make a huge scope
            raise self._fail(place, "a variable >= 0, below the number of nodes", str(node.variable))
        if node.units < 1:
            raise self._fail(place, "at least one unit", str(node.units))
        wanted = node.family.fixed_units
        if wanted is not None and node.units != wanted:
            raise self._fail(place, f"one unit for each of {wanted} categories", f"{node.units} units")
        self.units.append(node.units)
        self.scopes.append(1 << node.variable)

    def _add_product(self, place: int, node: Product) -> None:
        scope = 0
        for child in node.children:
            if scope & self.scopes[child]:
                twice = variables_of(scope & self.scopes[child])[0]
                raise self._fail(place, "children of disjoint scopes", f"variable {twice} in two of them")
            scope |= self.scopes[child]
        units = [self.units[child] for child in node.children]
        if node.outer:
            if len(units) != 2:
                raise self._fail(place, "two children of an outer product", str(len(units)))
            self.units.append(units[0] * units[1])
        else:
            if len(set(units)) > 1:
                raise self._fail(place, "children of equally many units", f"units {units}")
            self.units.append(units[0])
        self.scopes.append(scope)

    def _add_sum(self, place: int, node: Sum) -> None:
        scopes = {self.scopes[child] for child in node.children}
        if len(scopes) > 1:
            some = variables_of(self.scopes[node.children[0]] ^ next(iter(scopes - {self.scopes[node.children[0]]})))
            raise self._fail(place, "children of equal scope", f"variable {some[0]} in one and not in another")
        if node.units < 1:
            raise self._fail(place, "at least one unit", str(node.units))
        if node.edge_mask is not None:
            width = sum(self.units[child] for child in node.children)
            if len(node.edge_mask) != node.units or any(len(row) != width or not any(row) for row in node.edge_mask):
                raise self._fail(place, f"edge_mask of {node.units} rows of {width}, an edge in each", "something else")
        self.units.append(node.units)
        self.scopes.append(scopes.pop())

    def _check_whole(self) -> None:
        used = {child for node in self.nodes if not isinstance(node, Input) for child in node.children}
        unused = set(range(len(self.nodes) - 1)) - used
        if unused:
            raise self._fail(min(unused), "a parent of every node but the last", "none")
        if self.units[-1] != 1:
            raise self._fail(len(self.nodes) - 1, "a root of one unit", f"{self.units[-1]} units")
        missing = variables_of(((1 << self.scopes[-1].bit_length()) - 1) ^ self.scopes[-1])
        if missing:
            raise self._fail(len(self.nodes) - 1, "variables without a gap", f"no input of variable {missing[0]}")
        for variable, families in self.families.items():
            if len({f.discrete for f in families}) > 1:
                raise ValueError(f"Graph: variable {variable}: expected one kind of input, got discrete and continuous")
            if len({f.categories for f in families}) > 1:
                raise ValueError(f"Graph: variable {variable}: expected inputs of one alphabet, got several")

    @property
    def num_variables(self) -> int:
        """Number of variables, D."""
        return self.scopes[-1].bit_length()

    @cached_property
    def families(self) -> dict[int, list[Family]]:
        """The families of each variable's inputs."""
        found: dict[int, list[Family]] = {}
        for node in self.nodes:
            if isinstance(node, Input):
                found.setdefault(node.variable, []).append(node.family)
        return found

    @cached_property
    def num_edges(self) -> int:
        """Total number of edges of sum units. The cost of one evaluation is proportional to it."""
        edges = 0
        for node in self.nodes:
            if isinstance(node, Sum):
                width = sum(self.units[child] for child in node.children)
                edges += node.units * width if node.edge_mask is None else sum(map(sum, node.edge_mask))
        return edges

    def scope(self, place: int) -> list[int]:
        """The variables of a node, in order."""
        return variables_of(self.scopes[place])

    @cached_property
    def is_structured_decomposable(self) -> bool:
        """Whether all products of one scope split it in the same way. Then one vtree describes the splits of the whole
        circuit."""
        splits: dict[int, set[frozenset[int]]] = {}
        for place, node in enumerate(self.nodes):
            if isinstance(node, Product) and len(node.children) > 1:
                splits.setdefault(self.scopes[place], set()).add(frozenset(self.scopes[c] for c in node.children))
        return all(len(found) == 1 for found in splits.values())

    @cached_property
    def is_tree(self) -> bool:
        """Whether every node has one parent."""
        parents = Counter(c for node in self.nodes if not isinstance(node, Input) for c in node.children)
        return all(count == 1 for count in parents.values())

    def to_json(self) -> str:
        """A JSON description with one object for each node, in order."""
        return json.dumps({"format": "probkernels.circuit", "version": 1, "nodes": [_describe(n) for n in self.nodes]})

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """Reads the output of :meth:`to_json`.

        Raises:
            ValueError: the text is not such a description, or the circuit it describes is invalid.
        """
        try:
            read = json.loads(text)
            if read["format"] != "probkernels.circuit" or read["version"] != 1:
                raise KeyError("format")
            nodes = [_node(entry) for entry in read["nodes"]]
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(message("Graph.from_json", "text", "a circuit description, version 1", why)) from error
        return cls(nodes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.nodes == other.nodes

    def __hash__(self) -> int:
        return hash(self.nodes)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {self.num_variables} variables, {self.num_edges} edges)"


def variables_of(scope: int) -> list[int]:
    """The variables in a scope that is given as a bit mask, in order."""
    return [v for v in range(scope.bit_length()) if scope >> v & 1]


def _describe(node: Node) -> dict[str, Any]:
    if isinstance(node, Input):
        return {"type": "input", "variable": node.variable, "units": node.units, "family": family_to_json(node.family)}
    if isinstance(node, Product):
        return {"type": "product", "children": node.children, "outer": node.outer}
    edge_mask = None if node.edge_mask is None else ["".join("01"[edge] for edge in row) for row in node.edge_mask]
    return {"type": "sum", "children": node.children, "units": node.units, "edge_mask": edge_mask}


def _node(entry: dict[str, Any]) -> Node:
    if entry["type"] == "input":
        return Input(_int(entry["variable"]), _int(entry["units"]), family_from_json(entry["family"]))
    children = tuple(map(_int, entry["children"]))
    if entry["type"] == "product":
        return Product(children, _bool(entry["outer"]))
    if entry["type"] != "sum":
        raise KeyError(entry["type"])
    edge_mask = entry["edge_mask"]
    rows = None if edge_mask is None else tuple(tuple(EDGES[edge] for edge in row) for row in edge_mask)
    return Sum(children, _int(entry["units"]), rows)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value
