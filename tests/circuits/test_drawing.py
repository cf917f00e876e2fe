"""Pictures: what is in them, where it lies, what is refused. And the summary in words."""

from __future__ import annotations

import importlib.util
import io
import itertools

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
    Indicator,
    Input,
    Sum,
    describe,
    draw,
    factorized_graph,
    hclt_graph,
    poon_domingos_graph,
    rat_spn_graph,
)
from probkernels.circuits.drawing import COLORS, GAP, layout

SMALL = hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, latents=5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.booleans(), st.integers(0, 50))
def test_layouts_keep_children_below_and_neighbors_apart(size: int, repetitions: int, outer: bool, seed: int) -> None:
    graph = rat_spn_graph([Bernoulli()] * size, 2, repetitions=repetitions, outer=outer, seed=seed)
    places = layout(graph)
    for place, node in enumerate(graph.nodes):
        if not isinstance(node, Input):
            assert all(places[child][1] < places[place][1] for child in node.children)
    for level in {y for _, y in places}:
        row = sorted(x for x, y in places if y == level)
        assert all(b - a >= GAP - 1e-9 for a, b in itertools.pairwise(row))
    assert layout(graph) == places


def test_pictures_show_every_node_edge_and_size() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    mine = Figure().subplots()
    assert draw(SMALL, mine) is mine
    texts = [text.get_text() for text in mine.texts]
    assert {f"$x_{{{v}}}$" for v in range(4)} <= set(texts)
    assert [texts.count(symbol) for symbol in "+×5"] == [2, 2, 7]
    edges = [patch for patch in mine.patches if to_hex(patch.get_edgecolor()) == COLORS[Sum]]
    assert len(edges) == 2 and len(mine.patches) == 7
    labels = [text.get_text() for text in mine.get_legend().get_texts()]
    assert labels == ["input: Categorical(3)", "product", "sum"]
    outer = draw(rat_spn_graph([Gaussian()] * 4, 2))
    assert "⊗" in [text.get_text() for text in outer.texts]
    assert {"0–3", "0–1"} <= {text.get_text() for text in draw(poon_domingos_graph(2, 2, 1, 2, Bernoulli())).texts}
    buffer = io.BytesIO()
    outer.figure.savefig(buffer, format="png")
    assert buffer.getvalue()[:4] == b"\x89PNG"


def test_edges_of_a_circuit_are_as_wide_as_their_weights() -> None:
    pytest.importorskip("matplotlib")
    circuit = Circuit(poon_domingos_graph(1, 3, 1, 2, Bernoulli()))
    with torch.no_grad():
        circuit.sums[-1].copy_(torch.tensor([[[9.0, 9.0, 0.0, 0.0]]]))
    widths = sorted(patch.get_linewidth() for patch in draw(circuit).patches)
    plain = {patch.get_linewidth() for patch in draw(circuit.graph).patches}
    assert len(plain) == 1 and widths[0] < next(iter(plain)) < widths[-1]


def test_pictures_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"draw: argument 'circuit': expected up to 300 nodes, got 402. Hint: describe"
    ):
        draw(factorized_graph([Bernoulli()] * 400))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs matplotlib, which is not installed. Hint: pip install"):
        draw(SMALL)


def test_summaries_count_free_parameters() -> None:
    families = [Categorical(7), Bernoulli(), Gaussian(), DiscretizedLogistic(9)]
    text = describe(factorized_graph(families))
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "6", "6", "1", str(6 + 1 + 2 + 2)]
    assert "inputs: Categorical(7), Bernoulli(2), Gaussian, DiscretizedLogistic(9)" in text
    kept = ((True, False, True), (False, True, True))
    pruned = Graph([Input(0, 3, Indicator(3)), Sum((0,), 2, kept), Sum((1,), 1)])
    assert describe(pruned).splitlines()[-3].split() == ["total", "3", "6", "6", str(2 + 1)]
    assert describe(Circuit(pruned)) == describe(pruned)
    assert describe(poon_domingos_graph(1, 3, 1, 2, Bernoulli())).splitlines()[-1] == "smooth, decomposable"
