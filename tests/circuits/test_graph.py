"""What a graph accepts and refuses, with the text of every refusal, and its JSON form under hostile input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Gaussian,
    Graph,
    Indicator,
    Input,
    Product,
    Sum,
    factorized_graph,
    hclt_graph,
    rat_spn_graph,
)

X, Y = Input(0, 2, Categorical(3)), Input(1, 2, Categorical(3))
Z = Input(0, 2, Bernoulli())
PAIR = Product((0, 1))

INVALID: dict[str, tuple[list[Any], str]] = {
    "nothing": ([], "Graph: argument 'nodes': expected at least one node, got none."),
    "negative variable": ([Input(-1, 1, Bernoulli())], "node 0 (Input): expected a variable >= 0, below the"),
    "huge variable": ([Input(10**18, 1, Bernoulli())], "got 1000000000000000000"),
    "no units": ([Input(0, 0, Bernoulli())], "node 0 (Input): expected at least one unit, got 0"),
    "indicator units": ([Input(0, 1, Indicator(3))], "expected one unit for each of 3 categories, got 1 units"),
    "no child": ([X, Sum((), 1)], "node 1 (Sum): expected at least one child, got none"),
    "cycle": ([X, Sum((1,), 1)], "node 1 (Sum): expected children that come before it, got child 1"),
    "forward": ([X, Product((2,)), Sum((1,), 1)], "expected children that come before it, got child 2"),
    "negative child": ([X, Sum((-1,), 1)], "expected children that come before it, got child -1"),
    "overlap": (
        [X, Y, Product((0, 1, 1)), Sum((2,), 1)],
        "expected children of disjoint scopes, got variable 1 in two",
    ),
    "one child twice": ([X, Product((0, 0)), Sum((1,), 1)], "disjoint scopes, got variable 0 in two of them"),
    "units": ([X, Input(1, 3, Bernoulli()), PAIR, Sum((2,), 1)], "children of equally many units, got units [2, 3]"),
    "outer": ([X, Product((0,), outer=True), Sum((1,), 1)], "expected two children of an outer product, got 1"),
    "smooth": ([X, Y, Sum((0, 1), 1)], "expected children of equal scope, got variable 0 in one and not in another"),
    "sum units": ([X, Sum((0,), 0)], "node 1 (Sum): expected at least one unit, got 0"),
    "kept rows": ([X, Sum((0,), 1, ((True, True),) * 2)], "expected edge_mask of 1 rows of 2, an edge in each"),
    "kept width": ([X, Sum((0,), 1, ((True,),))], "expected edge_mask of 1 rows of 2"),
    "kept empty": ([X, Sum((0,), 1, ((False, False),))], "expected edge_mask of 1 rows of 2, an edge in each"),
    "unused": ([X, Y, Sum((1,), 1)], "node 0 (Input): expected a parent of every node but the last, got none"),
    "root": ([X], "node 0 (Input): expected a root of one unit, got 2 units"),
    "gap": ([Y, Sum((0,), 1)], "variables without a gap, got no input of variable 0"),
    "kinds": ([X, Input(0, 2, Gaussian()), Sum((0, 1), 1)], "expected one kind of input, got discrete and continuous"),
    "alphabets": ([X, Z, Sum((0, 1), 1)], "variable 0: expected inputs of one alphabet, got several"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_graphs_are_refused_by_name(name: str) -> None:
    nodes, text = INVALID[name]
    with pytest.raises(ValueError) as caught:
        Graph(nodes)
    assert text in str(caught.value)
    assert str(caught.value).startswith("Graph: ")


@pytest.mark.parametrize("node", ["sum", None, 3])
def test_what_is_no_node_is_named(node: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 'nodes\[1\]': expected Input, Product or Sum, got "):
        Graph([X, node])
    with pytest.raises(TypeError, match=r"nodes\[0\].family': expected a family, got "):
        Graph([Input(0, 1, node)])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Categorical(0), ValueError),
        (lambda: Categorical(True), TypeError),
        (lambda: Categorical(2.0), TypeError),
        (lambda: Bernoulli(2.0), ValueError),
    ],
)
def test_alphabets_are_whole_numbers(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="argument 'categories': expected"):
        make()


def test_sizes_and_properties() -> None:
    graph = Graph([X, Y, Product((0, 1), outer=True), Sum((2,), 3), Sum((3,), 1, ((True, False, True),))])
    assert graph.units == [2, 2, 4, 3, 1]
    assert graph.num_edges == 12 + 2
    assert [graph.scope(place) for place in range(5)] == [[0], [1], [0, 1], [0, 1], [0, 1]]
    assert graph.is_tree and graph.is_structured_decomposable
    twice = Graph([X, Y, Product((0, 1)), Product((1, 0)), Sum((2, 3), 1)])
    assert not twice.is_tree and twice.is_structured_decomposable
    xyz = [*(Input(v, 1, Bernoulli()) for v in range(3)), Product((0, 1)), Product((3, 2)), Product((1, 2))]
    assert not Graph([*xyz, Product((0, 5)), Sum((4, 6), 1)]).is_structured_decomposable


# --- JSON ---

EXAMPLES = [
    factorized_graph([Gaussian(), DiscretizedLogistic(9), Bernoulli(), Categorical(4)]),
    hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, [2, 3, 4, 5]),
    rat_spn_graph([Bernoulli()] * 5, 3, repetitions=2),
    Graph([Input(0, 3, Indicator(3)), Sum((0,), 2, ((True, False, True), (False, True, False))), Sum((1,), 1)]),
]


@pytest.mark.parametrize("graph", EXAMPLES, ids=repr)
def test_json_round_trip(graph: Graph) -> None:
    again = Graph.from_json(graph.to_json())
    assert again == graph and hash(again) == hash(graph) and again.to_json() == graph.to_json()
    assert again != EXAMPLES[0] or graph is EXAMPLES[0]


def described(**changes: Any) -> dict[str, Any]:
    """A valid description; ``node_key`` changes a field of one of its nodes."""
    read = json.loads(EXAMPLES[3].to_json())
    for name, value in changes.items():
        place, _, key = name.partition("_")
        kinds = {"input": 0, "sum": 1}
        if place in kinds:
            read["nodes"][kinds[place]][key] = value
        else:
            read[name] = value
    return read


HOSTILE: list[Any] = [
    None, [], 3, "graph", {}, described(format="other"), described(version=2), described(nodes=None),
    described(nodes=[None]), described(nodes=[[]]), described(nodes={}), described(nodes=[]),
    described(input_type="leaf"), described(input_type=[]), described(input_variable=10**30),
    described(input_variable=-1), described(input_variable=True), described(input_variable=0.0),
    described(input_units=10**30), described(input_units="3"), described(input_units=None),
    described(input_family=None), described(input_family={"name": "Categorical"}),
    described(input_family={"name": "Poisson", "categories": 3}), described(input_family={"name": [], "categories": 3}),
    described(input_family={"name": "Categorical", "categories": -3}),
    described(input_family={"name": "Categorical", "categories": "3"}),
    described(input_family={"name": "Gaussian", "categories": 0.0}),
    described(sum_children=[1]), described(sum_children=[-1]), described(sum_children=[0.0]),
    described(sum_children=[10**30]), described(sum_children=0), described(sum_children="0"),
    described(sum_units=-1), described(sum_edge_mask="101"), described(sum_edge_mask=[5, 6]),
    described(sum_edge_mask=["1x1", "010"]),
    described(sum_edge_mask=["101"]), described(sum_edge_mask=[["", "1", "1"], "010"]),
    described(sum_type="product", sum_outer="no"),
]  # fmt: skip


@pytest.mark.parametrize("read", HOSTILE, ids=lambda read: json.dumps(read)[-60:])
def test_hostile_json_is_a_value_error(read: Any) -> None:
    with pytest.raises(ValueError, match=r"argument|Graph: node"):
        Graph.from_json(json.dumps(read))


@pytest.mark.parametrize("text", ["", "{", "NaN", "[" * 100_000, '{"a":' * 100_000, "1" * 10_000, None, 3, b"\xff\xfe"])
def test_what_is_no_json_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError):
        Graph.from_json(text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_json_is_refused_or_still_valid(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([graph.to_json() for graph in EXAMPLES]))
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from([*'0123456789-"{}[],:e.', ""])) + text[at + 1 :]
    try:
        graph = Graph.from_json(damaged)
    except ValueError:
        return
    assert Graph.from_json(graph.to_json()) == graph
