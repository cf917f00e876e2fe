"""Vtrees: their shapes, what is none, and that circuits and vtrees lead back to each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import (
    Bernoulli,
    Graph,
    Input,
    Product,
    Sum,
    Vtree,
    factorized_graph,
    find_vtree,
    from_vtree,
    hclt_graph,
    poon_domingos_graph,
    quad_tree_graph,
)

from tests.circuits.test_regions import check_normalized

COINS = [Bernoulli()] * 6


@given(st.integers(1, 40), st.integers(0, 100))
def test_shapes(count: int, seed: int) -> None:
    order = Vtree.random(count, seed).order
    assert sorted(order) == list(range(count)) and Vtree.random(count, seed).order == order
    right, balanced = Vtree.right_linear(order), Vtree.balanced(order)
    assert right.order == balanced.order == order
    assert right.depth == count - 1 and balanced.depth == math.ceil(math.log2(count))
    assert right.num_variables == balanced.num_variables == count
    assert balanced.scopes[-1] == 2**count - 1


def test_deep_vtrees_need_no_recursion() -> None:
    deep = Vtree.right_linear(range(3000))
    assert deep.depth == 2999 and deep.order == tuple(range(3000))
    assert repr(deep) == "Vtree(3000 variables, depth 2999)"
    assert find_vtree(from_vtree(Vtree.right_linear(range(300)), [Bernoulli()] * 300, 2)).depth == 299


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ((), "expected variables 0 .. D - 1, each once, got []"),
        ((0, 1), "expected one parent of every node but the last, got 0 of node 0"),
        ((0, 1, (0, 0)), "expected one parent of every node but the last, got 2 of node 0"),
        (((0, 1), 0, 1), "expected children that come before node 0, got child 0"),
        ((0, 1, (-1, 0)), "expected children that come before node 2, got child -1"),
        ((0, 0, (0, 1)), "each once, got [0, 0]"),
        ((0, 2, (0, 1)), "each once, got [0, 2]"),
        ((0, 1, 2, (0, 1, 2)), "expected variables and pairs of places, got (0, 1, 2)"),
        ((0, "1", (0, 1)), "expected variables and pairs of places, got '1'"),
        ((-1, 0, (0, 1)), "each once, got [-1, 0]"),
    ],
)
def test_what_is_no_vtree_is_named(nodes: Any, text: str) -> None:
    with pytest.raises(ValueError, match="Vtree: argument 'nodes'") as caught:
        Vtree(nodes)
    assert text in str(caught.value)


@pytest.mark.parametrize("nested", [(0, 1, 2), "ab", None, (0, (1, 2.0)), ((),)])
def test_what_is_no_pair_is_named(nested: Any) -> None:
    with pytest.raises(ValueError, match=r"Vtree.of: argument 'nested': expected pairs and variables, got"):
        Vtree.of(nested)


def test_vtrees_have_a_variable() -> None:
    for empty in (Vtree.right_linear, Vtree.balanced):
        with pytest.raises(ValueError, match=r"expected variables 0 .. D - 1"):
            empty([])
    with pytest.raises(ValueError, match=r"expected variables 0 .. D - 1"):
        Vtree.random(0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 50), st.integers(1, 3), st.booleans(), st.none() | st.integers(1, 3))
def test_circuits_of_vtrees_have_that_vtree(count: int, seed: int, units: int, outer: bool, inputs: int | None) -> None:
    vtree = Vtree.random(count, seed)
    graph = from_vtree(vtree, COINS[:count], units, inputs=inputs, outer=outer)
    check_normalized(graph)
    assert graph.is_structured_decomposable
    found = find_vtree(graph)
    assert set(found.scopes) == set(vtree.scopes) and len(found.nodes) == len(vtree.nodes)


def test_families_of_another_number() -> None:
    with pytest.raises(ValueError, match="from_vtree: argument 'families': expected 4, one a variable, got 6"):
        from_vtree(Vtree.balanced(range(4)), COINS, 2)


@pytest.mark.parametrize(
    "graph",
    [factorized_graph(COINS), hclt_graph([1, -1, 1, 1, 3, 3], COINS, 2), quad_tree_graph(2, 3, 2, Bernoulli())],
    ids=["factorized", "hclt", "quad_tree"],
)
def test_every_scope_of_a_circuit_is_in_its_vtree(graph: Graph) -> None:
    assert set(graph.scopes) <= set(find_vtree(graph).scopes)


def test_products_are_folded_largest_first() -> None:
    nodes = [*(Input(v, 1, Bernoulli()) for v in range(4)), Product((2, 3)), Product((0, 4, 1)), Sum((5,), 1)]
    assert repr(find_vtree(Graph(nodes))) == "Vtree((((2, 3), 0), 1))"


def test_two_splits_have_no_vtree() -> None:
    with pytest.raises(
        ValueError, match="find_vtree: argument 'graph': expected one split of every scope, got"
    ) as caught:
        find_vtree(poon_domingos_graph(1, 3, 1, 2, Bernoulli()))
    assert "[0, 1, 2] as [[0], [1, 2]] and as [[0, 1], [2]]" in str(caught.value)
