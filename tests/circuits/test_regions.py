"""Circuits from region graphs of random shapes: valid by construction, normalized, and as large as they should be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import (
    Bernoulli,
    Categorical,
    Circuit,
    DiscretizedLogistic,
    Gaussian,
    Graph,
    Input,
    Product,
    Sum,
    from_regions,
    poon_domingos,
    poon_domingos_graph,
    quad_tree,
    quad_tree_graph,
    rat_spn,
    rat_spn_graph,
)
from probkernels.circuits.families import Family
from torch import Tensor

FAMILIES: list[Family] = [Bernoulli(), Categorical(3), DiscretizedLogistic(2)]
families_of = st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=6)
maybe = st.none() | st.integers(1, 3)


def check_normalized(graph: Graph) -> None:
    """Sums to one over all states, and is certain of nothing; what Graph checks, it has checked."""
    circuit = Circuit(graph, seed=1).double()
    x = torch.cartesian_prod(*[torch.arange(int(c)) for c in circuit.categories]).view(-1, graph.num_variables)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(circuit.log_prob(x).exp().sum(), one)
    torch.testing.assert_close(circuit.log_prob(x[:1], torch.ones(1, graph.num_variables) > 0).exp()[0], one)


def inputs(graph: Graph) -> list[Input]:
    return [node for node in graph.nodes if isinstance(node, Input)]


# --- by hand ---


@st.composite
def region_graphs(draw: Callable[..., Any]) -> tuple[int, list[list[list[int]]], bool]:
    """(D, partitions, outer): some ways to split everything, and each part or not."""
    count, outer = draw(st.integers(1, 5)), draw(st.booleans())
    partitions, open_regions = [], [list(range(count))]
    while open_regions:
        region = open_regions.pop()
        for _ in range(draw(st.integers(0, 2)) if len(region) > 1 else 0):
            shuffled = draw(st.permutations(region))
            cuts = draw(st.lists(st.integers(1, len(region) - 1), min_size=1, max_size=1 if outer else 3, unique=True))
            edges = [0, *sorted(cuts), len(region)]
            parts = [shuffled[a:b] for a, b in itertools.pairwise(edges)]
            partitions.append(parts)
            open_regions += parts
    return count, partitions, outer


@settings(max_examples=40, deadline=None)
@given(region_graphs(), st.integers(1, 3), maybe)
def test_any_region_graph_is_a_distribution(
    regions: tuple[int, list[list[list[int]]], bool], units: int, leaf_units: int | None
) -> None:
    count, partitions, outer = regions
    graph = from_regions(partitions, [Bernoulli()] * count, units, inputs=leaf_units, outer=outer)
    check_normalized(graph)
    split = {frozenset(v for part in parts for v in part) for parts in partitions}
    sums = [frozenset(graph.scope(i)) for i, node in enumerate(graph.nodes) if isinstance(node, Sum)]
    assert len(sums) == len(set(sums))  # one node a region
    assert split | {frozenset(range(count))} <= set(sums)


def test_one_node_a_region_and_a_partition() -> None:
    twice = [[(0, 1), (2,)], [(2,), (1, 0)], [(0,), (1, 2)], [[2], [1]]]
    graph = from_regions(twice, [Bernoulli()] * 3, 2, outer=True)
    products = [graph.scope(i) for i, node in enumerate(graph.nodes) if isinstance(node, Product) and node.outer]
    assert products == [[1, 2], [0, 1, 2], [0, 1, 2]]
    assert [node.variable for node in inputs(graph)].count(2) == 1  # shared by two products


def test_leaves_of_other_sizes() -> None:
    mixed = from_regions([[(0,), (1,)]], [Bernoulli()] * 2, 4, inputs=3)
    assert [type(node) for node in mixed.nodes] == [Input, Sum, Input, Sum, Product, Sum]
    assert [type(node) for node in from_regions([[(0,), (1,)]], [Bernoulli()] * 2, 4, inputs=3, outer=True).nodes] == [
        Input, Input, Product, Sum,
    ]  # fmt: skip
    assert from_regions([], [Bernoulli()] * 2, 4, inputs=3).num_edges == 3


@pytest.mark.parametrize(
    ("partitions", "text"),
    [
        ([[(0, 1), (1, 2)]], "expected disjoint parts, got variable 1 in two parts of (0, 1, 2)"),
        ([[(0, 1, 2)]], "expected two parts or more, got 1 in a partition of (0, 1, 2)"),
        ([[]], "expected two parts or more, got 0"),
        ([[(0, 1, 2), ()]], "expected parts with a variable, got an empty one"),
        ([[(0, 1), (3,)]], "expected variables 0 .. 2, as many as families, got 3"),
        ([[(0, 1), (-1,)]], "expected variables 0 .. 2, as many as families, got -1"),
        ([[(0,), (1,)]], "expected regions that a partition of a larger one leads to, got (0, 1), a part of none"),
        ([[(0, 1), (2,)], [(1,), (2,)]], "leads to, got (1, 2), a part of none"),
    ],
)
def test_wrong_regions_are_named(partitions: Any, text: str) -> None:
    with pytest.raises(ValueError, match="from_regions: argument 'partitions'") as caught:
        from_regions(partitions, [Bernoulli()] * 3, 2)
    assert text in str(caught.value)


def test_other_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"two parts, for outer products, got 3 in a partition of \(0, 1, 2\)"):
        from_regions([[(0,), (1,), (2,)]], [Bernoulli()] * 3, 2, outer=True)
    for name, arguments in (("units", (0, None)), ("inputs", (1, 0))):
        with pytest.raises(ValueError, match=f"argument '{name}': expected a number >= 1, got 0"):
            from_regions([], [Bernoulli()], arguments[0], inputs=arguments[1])
    with pytest.raises(ValueError, match="argument 'families': expected one a variable, got none"):
        from_regions([], [], 2)


# --- random regions ---


@settings(max_examples=25, deadline=None)
@given(
    families_of,
    st.integers(1, 3),
    st.none() | st.integers(0, 4),
    st.integers(1, 3),
    maybe,
    st.booleans(),
    st.integers(0, 9),
)
def test_rat_spns_are_a_distribution(
    families: list[Family],
    units: int,
    depth: int | None,
    repetitions: int,
    leaf_units: int | None,
    outer: bool,
    seed: int,
) -> None:
    arguments: Any = {"depth": depth, "repetitions": repetitions, "inputs": leaf_units, "outer": outer, "seed": seed}
    graph = rat_spn_graph(families, units, **arguments)
    assert graph == rat_spn_graph(families, units, **arguments)
    check_normalized(graph)


def test_rat_spns_have_the_papers_size() -> None:
    """64 variables split twice: a repetition has K² edges at the root and 2 K I² below it."""
    graph = rat_spn_graph([Gaussian()] * 64, 5, depth=2, repetitions=3, inputs=4)
    assert graph.num_edges == 3 * (5**2 + 2 * 5 * 4**2)
    assert len(inputs(graph)) == 3 * 64 and {node.units for node in inputs(graph)} == {4}
    assert sorted({len(graph.scope(i)) for i in range(len(graph.nodes))}) == [1, 16, 32, 64]
    assert rat_spn_graph([Bernoulli()] * 9, 2, depth=0, repetitions=4).num_edges == 2
    assert rat_spn_graph([Bernoulli()] * 9, 2, seed=1) != rat_spn_graph([Bernoulli()] * 9, 2, seed=2)


def test_rat_spns_refuse() -> None:
    for name, value in (("depth", -1), ("repetitions", 0)):
        with pytest.raises(ValueError, match=f"rat_spn: argument '{name}': expected a number >= "):
            rat_spn_graph([Bernoulli()], 2, **{name: value})


# --- images ---


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 2)).filter(lambda s: s[0] * s[1] * s[2] <= 9),
    st.integers(1, 3), maybe, st.sampled_from([(4, False), (2, False), (2, True)]),
)  # fmt: skip
def test_quad_trees_are_a_distribution(
    shape: tuple[int, int, int], units: int, leaf_units: int | None, kind: Any
) -> None:
    height, width, channels = shape
    parts, outer = kind
    graph = quad_tree_graph(
        height, width, units, Bernoulli(), channels=channels, parts=parts, inputs=leaf_units, outer=outer
    )
    check_normalized(graph)
    assert graph.is_tree and graph.is_structured_decomposable
    assert len(inputs(graph)) == height * width * channels


def test_quad_trees_split_into_quadrants() -> None:
    graph = quad_tree_graph(4, 4, 2, Bernoulli())
    scopes = {tuple(graph.scope(i)) for i, node in enumerate(graph.nodes) if isinstance(node, Product)}
    assert scopes == {tuple(range(16)), (0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)}
    colored = quad_tree_graph(2, 2, 2, Bernoulli(), channels=3)
    scopes = {tuple(colored.scope(i)) for i, node in enumerate(colored.nodes) if isinstance(node, Product)}
    assert scopes == {tuple(range(12)), *((i, 4 + i, 8 + i) for i in range(4))}  # a pixel's channels stay together


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), maybe, st.booleans())
def test_poon_domingos_is_a_distribution(
    height: int, width: int, delta: int, units: int, leaf_units: int | None, outer: bool
) -> None:
    graph = poon_domingos_graph(height, width, delta, units, Bernoulli(), inputs=leaf_units, outer=outer)
    check_normalized(graph)
    assert sorted(node.variable for node in inputs(graph)) == list(range(height * width))  # each one node, shared


@pytest.mark.parametrize(("height", "width", "delta"), [(2, 3, 1), (4, 4, 2), (5, 3, 2), (6, 6, 2)])
def test_poon_domingos_has_every_rectangle_and_every_split(height: int, width: int, delta: int) -> None:
    graph = poon_domingos_graph(height, width, delta, 2, Bernoulli())
    rows, columns = -(-height // delta), -(-width // delta)
    rectangles = rows * (rows + 1) * columns * (columns + 1) // 4
    sums = [node for node in graph.nodes if isinstance(node, Sum)]
    assert len(sums) == rectangles - rows * columns
    splits = [sum((n - size + 1) * (size - 1) for size in range(1, n + 1)) for n in (rows, columns)]
    expected = splits[0] * columns * (columns + 1) // 2 + splits[1] * rows * (rows + 1) // 2
    assert sum(len(node.children) for node in sums) == expected


def test_images_refuse() -> None:
    for name in ("height", "width", "channels"):
        with pytest.raises(ValueError, match=f"quad_tree: argument '{name}': expected a number >= 1, got 0"):
            quad_tree_graph(**{"height": 2, "width": 2, "units": 2, "families": Bernoulli(), "channels": 1, name: 0})
    with pytest.raises(ValueError, match=r"expected one, or 2 \* 2 \* 3, got 4"):
        quad_tree_graph(2, 3, 2, [Bernoulli()] * 4, channels=2)
    with pytest.raises(ValueError, match="argument 'parts': expected 2 or 4, got 3"):
        quad_tree_graph(2, 2, 2, Bernoulli(), parts=3)
    with pytest.raises(ValueError, match="argument 'outer': expected parts=2, for outer products, got parts=4"):
        quad_tree_graph(2, 2, 2, Bernoulli(), outer=True)
    with pytest.raises(ValueError, match="poon_domingos: argument 'delta': expected a number >= 1, got 0"):
        poon_domingos_graph(2, 2, 0, 2, Bernoulli())


# --- circuits for data ---

MAKERS: dict[str, Callable[..., Circuit]] = {
    "rat_spn": lambda x, **more: rat_spn(x, 3, repetitions=2, **more),
    "quad_tree": lambda x, **more: quad_tree(x, 2, 3, 3, **more),
    "poon_domingos": lambda x, **more: poon_domingos(x, 2, 3, 1, 3, **more),
}


@pytest.mark.parametrize("name", MAKERS)
def test_circuits_for_data(name: str) -> None:
    make = MAKERS[name]
    x = torch.randint(0, 4, (30, 6))
    assert make(x.to(torch.uint8)).graph.families[0][0] == Categorical(int(x.max()) + 1)
    assert make(x, categories=9).graph.families[5][0] == Categorical(9)
    values = torch.randn(30, 6) * 5 + 100
    circuit = make(values)
    assert circuit.graph.families[0][0] == Gaussian()
    assert circuit.log_prob(values).mean() > Circuit(circuit.graph).log_prob(values).mean()  # placed among the data
    wrong: list[tuple[type[Exception], str, Tensor | list[int], dict[str, int]]] = [
        (TypeError, "expected integers, as categories are given, got torch.float32", values, {"categories": 3}),
        (ValueError, r"expected a tensor of shape \(N, D\) with rows and columns, got shape \(6,\)", x[0], {}),
        (TypeError, r"expected a tensor of shape \(N, D\) with rows and columns, got list", [1], {}),
        (ValueError, r"expected values 0 .. 1 of variable", x, {"categories": 2}),
    ]
    for error, text, data, more in wrong:
        with pytest.raises(error, match=text):
            make(data, **more)
