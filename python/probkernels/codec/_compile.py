"""Compiles a structured-decomposable circuit to instructions: a walk over its vtree that codes every variable.

For the nodes of a scope, the walk down carries the weight that the rest of the circuit gives to each unit (`down`),
given what is already coded and with 1 for everything else. The walk up carries the units' values (`up`). Every edge is
visited twice, whatever the vtree's shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .._core.formats.instructions import COLUMNS, Code
from ..circuits import Graph, Input, Product, Sum
from ..circuits.graph import variables_of

MOST_UNITS = 2048  # input units of one variable: with more, the rounding of mixture weights could exceed a weight
LEAST_WEIGHT = 2.0**-24  # weights below are raised to it, so that no product is subnormal


@dataclass
class Registers:
    """Allocates vectors in the register file. A freed place can be used again."""

    size: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # place, length; sorted, none touches the next

    def take(self, length: int) -> int:
        for i, (place, room) in enumerate(self.gaps):
            if room >= length:
                self.gaps[i : i + 1] = [(place + length, room - length)] if room > length else []
                return place
        at_end = self.gaps and sum(self.gaps[-1]) == self.size
        place = self.gaps.pop()[0] if at_end else self.size
        self.size = place + length
        return place

    def free(self, place: int, length: int) -> None:
        merged: list[tuple[int, int]] = []
        for gap in sorted([*self.gaps, (place, length)]):
            if merged and sum(merged[-1]) == gap[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap[1])
            else:
                merged.append(gap)
        self.gaps = merged


class Compiler:
    """Compiles one circuit: :meth:`run` fills ``code``, ``order``, ``registers`` and ``inputs``."""

    def __init__(self, graph: Graph, weight_at: dict[int, int]) -> None:
        """``weight_at``: the offset of the weights (O, I) of each sum."""
        self.graph, self.weight_at = graph, weight_at
        self.code: list[list[int]] = []
        self.order: list[int] = []
        self.registers = Registers()
        self.by_scope: dict[int, list[int]] = defaultdict(list)
        for place, scope in enumerate(graph.scopes):
            self.by_scope[scope].append(place)
        self.inputs: dict[int, list[int]] = defaultdict(list)  # of a variable, its input nodes
        self.input_at: dict[int, int] = {}  # first column of an input node in its variable's table
        for place, node in enumerate(graph.nodes):
            if isinstance(node, Input):
                self.input_at[place] = sum(graph.units[other] for other in self.inputs[node.variable])
                self.inputs[node.variable].append(place)
        self.down: dict[int, int] = {}
        self.up: dict[int, int] = {}
        self.written: set[int] = set()  # nodes whose `down` holds something

    def emit(self, op: Code, dst: int, a: int, b: int, n: int, m: int = 0, *strides: int) -> None:
        row = [int(op), dst, a, b, n, m, *strides]
        self.code.append(row + [0] * (COLUMNS - len(row)))

    def run(self) -> Compiler:
        root = len(self.graph.nodes) - 1
        self.down[root] = self.registers.take(1)
        self.emit(Code.FILL, self.down[root], -1, -1, 1)
        self.written.add(root)
        # A stack of its own: a latent tree may be deeper than Python's.
        stack = [self._scope(self.graph.scopes[root], [root])]
        while stack:
            below = next(stack[-1], None)
            if below is None:
                stack.pop()
            else:
                stack.append(self._scope(*below))
        return self

    def _group(self, nodes: Sequence[int]) -> dict[int, int]:
        """Allocates adjacent registers for the vectors of some nodes."""
        place = self.registers.take(sum(self.graph.units[node] for node in nodes))
        found = {}
        for node in nodes:
            found[node] = place
            place += self.graph.units[node]
        return found

    def _length(self, nodes: Sequence[int]) -> int:
        return sum(self.graph.units[node] for node in nodes)

    def _release(self, table: dict[int, int], nodes: Sequence[int]) -> None:
        if nodes:
            self.registers.free(table[nodes[0]], self._length(nodes))
            for node in nodes:
                del table[node]

    def _scope(self, scope: int, entries: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Codes the variables of a scope. Yields the scopes below with their entries, the nodes that products above
        multiply. An entry's `down` is set before the visit of its scope, and its `up` after it."""
        nodes = self.by_scope[scope]
        inner = [node for node in nodes if node not in self.down]
        self.down |= self._group(inner)
        if not all(isinstance(self.graph.nodes[node], Input) for node in nodes):
            self.emit(Code.RESCALE, self.down[entries[0]], -1, -1, self._length(entries))
        for node in reversed(nodes):
            self._pass_down(node)
        splits = [n for n in nodes if isinstance(self.graph.nodes[n], Product) and len(self._children(n)) > 1]
        if splits:
            yield from self._split(splits)
        else:
            self._code_variable(scope)
        self._go_up(nodes, entries, splits, inner)

    def _children(self, node: int) -> tuple[int, ...]:
        found = self.graph.nodes[node]
        return () if isinstance(found, Input) else found.children

    def _pass_down(self, node: int) -> None:
        """Passes `down` to children with the same scope."""
        found = self.graph.nodes[node]
        if isinstance(found, Sum):
            width, column = self._length(found.children), self.weight_at[node]
            for child in found.children:
                self._matvec(self.down, child, self.down[node], found.units, column, width, 1)
                column += self.graph.units[child]
        elif isinstance(found, Product) and len(found.children) == 1:
            self._multiply(self.down[found.children[0]], self.down[node], -1, found.children[0])

    def _matvec(
        self, table: dict[int, int], node: int, a: int, m: int, weights: int, stride: int, step: int, more: bool = False
    ) -> None:
        """table[node][k] (+)= sum over j < m of a[j] * weights[j * stride + k * step]."""
        more = more or (table is self.down and node in self.written)
        self.emit(Code.MATVEC, table[node], a, weights, self.graph.units[node], m, stride, step, int(more))
        if table is self.down:
            self.written.add(node)

    def _multiply(self, dst: int, a: int, b: int, child: int) -> None:
        """down of the child (+)= a * b."""
        more = int(child in self.written)
        self.emit(Code.MULTIPLY, dst, a, b, self.graph.units[child], 0, 0, 0, more)
        self.written.add(child)

    # --- products ---

    def _split(self, products: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Visits the parts that the products of a scope split it into, smallest first: single variables add evidence
        before the larger and costlier parts are visited."""
        scopes = sorted((self.graph.scopes[child] for child in self._children(products[0])), key=int.bit_count)
        hadamard = [node for node in products if not self._outer(node)]
        seen = self._group(hadamard) if hadamard else {}  # of every product, the values of its children so far
        left: dict[int, tuple[int, int]] = {}  # of an outer product, its first visited child and the copy of its value
        for turn, part in enumerate(scopes):
            child_of = {n: next(c for c in self._children(n) if self.graph.scopes[c] == part) for n in products}
            entries = sorted(set(child_of.values()))
            self.down |= self._group(entries)
            for node, child in child_of.items():
                self._open(node, child, turn, seen, left)
            yield part, entries
            self._close(child_of, turn, seen, left)
            if hadamard:
                self.emit(Code.RESCALE, seen[hadamard[0]], -1, -1, self._length(hadamard))
            self._forget(entries, child_of, left)
        self._finish(products, seen, left)

    def _outer(self, node: int) -> bool:
        found = self.graph.nodes[node]
        return isinstance(found, Product) and found.outer

    def _open(self, node: int, child: int, turn: int, seen: dict[int, int], left: dict[int, tuple[int, int]]) -> None:
        if not self._outer(node):
            self._multiply(self.down[child], self.down[node], seen[node] if turn else -1, child)
            return
        first, second = self._children(node)
        rows, columns = self.graph.units[first], self.graph.units[second]
        other = left[node][1] if turn else -1
        shape = (columns, columns, 1) if child == first else (rows, 1, columns)
        n, (m, step, stride) = self.graph.units[child], shape
        self.emit(
            Code.CONTRACT, self.down[child], self.down[node], other, n, m, stride, step, int(child in self.written)
        )
        self.written.add(child)

    def _close(
        self, child_of: dict[int, int], turn: int, seen: dict[int, int], left: dict[int, tuple[int, int]]
    ) -> None:
        kept: dict[int, int] = {}
        for node, child in child_of.items():
            if not self._outer(node):
                a = seen[node] if turn else -1
                self.emit(Code.MULTIPLY, seen[node], self.up[child], a, self.graph.units[node])
            elif turn == 0:
                kept[child] = self.up[child]
                left[node] = child, kept[child]
            else:
                self._outer_value(node, child, left[node][1])

    def _outer_value(self, node: int, child: int, other: int) -> None:
        first, second = self._children(node)
        a, b = (self.up[child], other) if child == first else (other, self.up[child])
        place = self.down[node]  # all that passes it on is done: its registers take the value
        self.up[node] = place
        self.emit(Code.OUTER, place, a, b, self.graph.units[first], self.graph.units[second])

    def _forget(self, entries: list[int], child_of: dict[int, int], left: dict[int, tuple[int, int]]) -> None:
        """Frees the values of a part, unless outer products still need them."""
        if not any(left.get(node, (None,))[0] == child for node, child in child_of.items()):
            self._release(self.up, entries)
        self.written.difference_update(entries)

    def _finish(self, products: list[int], seen: dict[int, int], left: dict[int, tuple[int, int]]) -> None:
        self.up |= seen
        self._release(self.up, sorted({child for child, _ in left.values()}))

    # --- single variables, and the way back ---

    def _code_variable(self, scope: int) -> None:
        variable = variables_of(scope)[0]
        nodes = self.inputs[variable]
        total = self._length(nodes)
        place = self.down[nodes[0]]
        together = self._side_by_side(nodes)
        if not together:
            place = self.registers.take(total)
            for node in nodes:
                self.emit(Code.MULTIPLY, place + self.input_at[node], self.down[node], -1, self.graph.units[node])
        self.emit(Code.CODE, -1, place, -1, total, variable)
        if not together:
            self.registers.free(place, total)
        self.order.append(variable)

    def _side_by_side(self, nodes: list[int]) -> bool:
        return all(self.down[node] == self.down[nodes[0]] + self.input_at[node] for node in nodes)

    def _go_up(self, nodes: list[int], entries: list[int], splits: list[int], inner: list[int]) -> None:
        """Computes the values of the nodes of a scope, children first."""
        here = [node for node in nodes if node not in entries and node not in self.up]
        if here:
            self.up |= self._group(here)
        wanted = [node for node in entries if node not in self.up]
        values = self._group(entries)
        for node in wanted:
            self.up[node] = values[node]
        for node in nodes:
            if node not in splits:
                self._value(node)
        self._place_entries(entries, values)
        if not all(isinstance(self.graph.nodes[node], Input) for node in nodes):
            self.emit(Code.RESCALE, values[entries[0]], -1, -1, self._length(entries))
        self._free_scope(nodes, entries, splits, inner, here, values)

    def _place_entries(self, entries: list[int], values: dict[int, int]) -> None:
        for node in entries:
            if self.up[node] != values[node]:
                self.emit(Code.MULTIPLY, values[node], self.up[node], -1, self.graph.units[node])

    def _free_scope(
        self, nodes: list[int], entries: list[int], splits: list[int], inner: list[int], here: list[int],
        values: dict[int, int],
    ) -> None:  # fmt: skip
        seen = [node for node in splits if not self._outer(node)]
        if seen:
            self.registers.free(self.up[seen[0]], self._length(seen))
        if here:
            self.registers.free(self.up[here[0]], self._length(here))
        self._release(self.down, inner)
        self._release(self.down, entries)
        for node in nodes:
            self.up.pop(node, None)
        self.up |= values
        self.written.difference_update(nodes)

    def _value(self, node: int) -> None:
        found = self.graph.nodes[node]
        if isinstance(found, Input):
            self.emit(Code.LEAF, self.up[node], -1, -1, found.units, found.variable, self.input_at[node])
        elif isinstance(found, Product):
            self.emit(Code.MULTIPLY, self.up[node], self.up[found.children[0]], -1, self.graph.units[node])
        else:
            column, width = self.weight_at[node], self._length(found.children)
            for i, child in enumerate(found.children):
                units = self.graph.units[child]
                self._matvec(self.up, node, self.up[child], units, column, 1, width, more=i > 0)
                column += units


def room(categories: int) -> int:
    """Counts that the categories of a unit share: (2**24 - categories) / 256, rounded down."""
    return 65536 - -(-categories // 256)


def integer_table(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (C, K) of each unit -> counts below each category, (C, K) uint16.

    A category has frequency 256 * count + 1, out of 2**24, so its count may be 0. Counts are rounded down, and the rest
    goes to the largest remainders.
    """
    shares = probabilities / probabilities.sum(0) * room(len(probabilities))
    counts = np.floor(shares).astype(np.int64)
    rank = (counts - shares).argsort(0, kind="stable").argsort(0, kind="stable")
    counts += rank < room(len(probabilities)) - counts.sum(0)
    return (counts.cumsum(0) - counts).astype(np.uint16)
