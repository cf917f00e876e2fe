"""Circuits from region graphs. A region graph says which sets of variables are modeled, and how each is split.

A region is a set of variables; a partition splits it into disjoint parts. Every region becomes one vector node, so a
region that several partitions share is evaluated once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from torch import Tensor

from .._core import checks
from .._core.errors import message
from .circuit import Circuit
from .families import Categorical, Family, Gaussian
from .graph import Graph, Input, Node, Product, Sum, variables_of

Partition = Sequence[Iterable[int]]


def from_regions(
    partitions: Iterable[Partition],
    families: Sequence[Family],
    units: int,
    *,
    inputs: int | None = None,
    outer: bool = False,
) -> Graph:
    """Builds a graph with one vector node for each region of a region graph.

    A region with partitions becomes a sum node of ``units`` units over the products of all its partitions. A region
    without partitions is a leaf: a product over its variables, each with ``inputs`` input units.

    Args:
        partitions: list of partitions. A partition is a list of disjoint regions and splits their union. Partitions of
            the set of all variables are at the top; if there are none, that set is a leaf. Repeated partitions count
            once.
        families: family of each variable's inputs, D in total.
        units: number of sum units of each region. The top region has one.
        inputs: number of input units of each variable in a leaf region. None means ``units``.
        outer: True for Kronecker products as in the paper: every unit of the first part times every unit of the second.
            Partitions then have two parts. False for Hadamard products: unit k of all parts. Leaf regions then get an
            extra sum if ``inputs`` differs from ``units``.

    Raises:
        ValueError: a part is empty or has an unknown variable, parts overlap, a partition has fewer than two parts (or,
            with ``outer``, not exactly two), a partition's region is not part of a larger partition, or a number is
            below one. The message names the region.

    Reference:
        Dennis and Ventura, Learning the architecture of sum-product networks using clustering on variables, 2012.

    Example:
        >>> from probkernels.circuits import Categorical, from_regions
        >>> two_ways = [[(0, 1), (2,)], [(0,), (1, 2)]]
        >>> from_regions(two_ways, [Categorical(4)] * 3, units=2)
        Graph(11 nodes, 3 variables, 4 edges)
        >>> from_regions([[(0, 1), (1, 2)]], [Categorical(4)] * 3, units=2)
        Traceback (most recent call last):
        ...
        ValueError: from_regions: argument 'partitions': expected disjoint parts, got variable 1 in two ...
    """
    splits = _splits(partitions, len(families))
    return _Builder(families, units, units if inputs is None else inputs, outer).build(splits)


def _splits(partitions: Iterable[Partition], count: int) -> dict[int, list[tuple[int, ...]]]:
    """Regions as bit masks, with the partitions of each. All lie below the set of all variables."""
    splits: dict[int, list[tuple[int, ...]]] = {}
    for partition in partitions:
        parts = [_region(part, count) for part in partition]
        whole = 0
        for part in parts:
            whole |= part
        if sum(part.bit_count() for part in parts) > whole.bit_count():
            twice = next(v for v in variables_of(whole) if sum(part >> v & 1 for part in parts) > 1)
            raise _wrong("disjoint parts", f"variable {twice} in two parts of {_name(whole)}")
        if len(parts) < 2:
            raise _wrong("two parts or more", f"{len(parts)} in a partition of {_name(whole)}")
        found = splits.setdefault(whole, [])
        if not any(set(parts) == set(other) for other in found):
            found.append(tuple(parts))
    everything = (1 << count) - 1
    below = {part for ways in splits.values() for parts in ways for part in parts}
    for region in splits:
        if region != everything and region not in below:
            raise _wrong("regions that a partition of a larger one leads to", f"{_name(region)}, a part of none")
    return splits


def _region(part: Iterable[int], count: int) -> int:
    region = 0
    for variable in part:
        if not 0 <= variable < count:
            raise _wrong(f"variables 0 .. {count - 1}, as many as families", f"{variable}")
        region |= 1 << variable
    if not region:
        raise _wrong("parts with a variable", "an empty one")
    return region


def _name(region: int) -> str:
    found = variables_of(region)
    return str(tuple(found)) if len(found) <= 8 else f"({', '.join(map(str, found[:6]))}, … {found[-1]})"


def _wrong(expected: str, got: str) -> ValueError:
    return ValueError(message("from_regions", "partitions", expected, got))


class _Builder:
    """Turns regions into nodes, smallest regions first."""

    def __init__(self, families: Sequence[Family], units: int, inputs: int, outer: bool) -> None:
        if not families:
            raise ValueError(message("from_regions", "families", "one a variable", "none"))
        for name, value in (("units", units), ("inputs", inputs)):
            if value < 1:
                raise ValueError(message("from_regions", name, "a number >= 1", repr(value)))
        self.families, self.units, self.inputs, self.outer = families, units, inputs, outer
        self.nodes: list[Node] = []
        self.places: dict[int, int] = {}  # of every region's node

    def build(self, splits: dict[int, list[tuple[int, ...]]]) -> Graph:
        everything = (1 << len(self.families)) - 1
        regions = {everything, *splits, *(part for ways in splits.values() for parts in ways for part in parts)}
        for region in sorted(regions, key=lambda region: (region.bit_count(), region)):
            units = 1 if region == everything else self.units
            if region in splits:
                self.places[region] = self._mix([self._product(parts) for parts in splits[region]], units)
            else:
                leaf = self._leaf(region)
                plain = region != everything and (self.outer or self.inputs == self.units)
                self.places[region] = leaf if plain else self._mix([leaf], units)
        return Graph(self.nodes)

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _mix(self, children: list[int], units: int) -> int:
        return self._add(Sum(tuple(children), units))

    def _product(self, parts: tuple[int, ...]) -> int:
        if self.outer and len(parts) != 2:
            whole = sum(parts)
            raise _wrong("two parts, for outer products", f"{len(parts)} in a partition of {_name(whole)}")
        return self._add(Product(tuple(self.places[part] for part in parts), self.outer))

    def _leaf(self, region: int) -> int:
        inputs = [self._add(Input(v, self.inputs, self.families[v])) for v in variables_of(region)]
        return inputs[0] if len(inputs) == 1 else self._add(Product(tuple(inputs)))


def rat_spn_graph(
    families: Sequence[Family],
    units: int,
    *,
    depth: int | None = None,
    repetitions: int = 1,
    inputs: int | None = None,
    outer: bool = True,
    seed: int = 0,
) -> Graph:
    """A random tensorized circuit (RAT-SPN): ``repetitions`` random trees under one root.

    Each tree splits the variables at random into halves and splits the halves again, ``depth`` times.

    Args:
        families: family of each variable's inputs, D in total.
        units: K, number of sum units of each region.
        depth: largest number of splits above a leaf region. None splits down to single variables.
        repetitions: R, number of random trees under the root.
        inputs: I, number of input units of each variable in a leaf region. None means ``units``.
        outer: True for Kronecker products as in the paper (K² units each), False for Hadamard products (K units).
        seed: seed of the splits.

    Raises:
        ValueError: ``depth`` is below 0, or ``repetitions``, ``units`` or ``inputs`` is below 1.

    Reference:
        Peharz et al., Random Sum-Product Networks: A Simple and Effective Approach to Probabilistic Deep Learning,
        UAI 2019, algorithms 1 and 2.

    Example:
        >>> from probkernels.circuits import Bernoulli, rat_spn_graph
        >>> rat_spn_graph([Bernoulli()] * 7, units=4, depth=2, repetitions=3)
        Graph(34 nodes, 7 variables, 432 edges)
    """
    depth = len(families) if depth is None else depth
    if depth < 0:
        raise ValueError(message("rat_spn", "depth", "a number >= 0", repr(depth)))
    if repetitions < 1:
        raise ValueError(message("rat_spn", "repetitions", "a number >= 1", repr(repetitions)))
    generator = random.Random(seed)
    partitions = []
    for _ in range(repetitions):
        level = [list(range(len(families)))]
        for _ in range(depth):
            halves = [_halves(region, generator) for region in level if len(region) > 1]
            partitions += halves
            level = [half for pair in halves for half in pair]
    return from_regions(partitions, families, units, inputs=inputs, outer=outer)


def _halves(region: list[int], generator: random.Random) -> tuple[list[int], list[int]]:
    shuffled = generator.sample(region, len(region))
    return shuffled[: len(region) // 2], shuffled[len(region) // 2 :]


def rat_spn(
    x: Tensor,
    units: int,
    *,
    depth: int | None = None,
    repetitions: int = 1,
    inputs: int | None = None,
    outer: bool = True,
    categories: int | Sequence[int] | None = None,
    seed: int = 0,
) -> Circuit:
    """A circuit over :func:`rat_spn_graph` for data like x, with random parameters. Train it with :class:`EM`.

    Args:
        x: (N, D) observations. Integers get categorical inputs, floats Gaussian inputs that start spread like the data.
        units, depth, repetitions, inputs, outer: see :func:`rat_spn_graph`.
        categories: number of categories of each variable, or one number for all. The default is the largest value of x
            plus one.
        seed: seed of the splits and of the parameters.

    Raises:
        TypeError, ValueError: as :func:`rat_spn_graph`, or as :meth:`Circuit.log_prob` for x.

    Example:
        >>> import torch
        >>> from probkernels.circuits import rat_spn
        >>> x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        >>> rat_spn(x, units=4, repetitions=2).log_prob(x[:3]).shape
        torch.Size([3])
    """
    families = families_for("rat_spn", x, categories)
    graph = rat_spn_graph(families, units, depth=depth, repetitions=repetitions, inputs=inputs, outer=outer, seed=seed)
    return Circuit(graph, data=x, seed=seed)


def families_for(op: str, x: Tensor, categories: int | Sequence[int] | None) -> list[Family]:
    """The family of each column of x (N, D): Gaussian for floats, else categorical."""
    wanted = "a tensor of shape (N, D) with rows and columns"
    if not isinstance(x, Tensor):
        raise TypeError(message(op, "x", wanted, checks.describe(x), checks.AS_TENSOR))
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(message(op, "x", wanted, f"shape {tuple(x.shape)}"))
    if x.is_floating_point():
        if categories is not None:
            hint = "x.long() if the values are whole numbers"
            raise TypeError(message(op, "x", "integers, as categories are given", str(x.dtype), hint))
        return [Gaussian()] * x.shape[1]
    if categories is None:
        categories = int(x.max()) + 1
    sizes = [categories] * x.shape[1] if isinstance(categories, int) else list(categories)
    if len(sizes) != x.shape[1]:
        raise ValueError(message(op, "categories", f"{x.shape[1]} numbers, one a column", f"{len(sizes)}"))
    return [Categorical(size) for size in sizes]
