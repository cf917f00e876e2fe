"""Trees over the variables: sizes of HCLTs, their special cases, and closed forms of what is fitted at once."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from probkernels.circuits import (
    Bernoulli,
    Categorical,
    Circuit,
    Gaussian,
    Indicator,
    Input,
    Sum,
    chow_liu,
    factorized,
    factorized_graph,
    hclt,
    hclt_graph,
    tree_parents,
)
from torch import Tensor

PARENTS = [2, 2, -1, 2, 3, 3, 4]  # latents at 2, 3 and 4


def related(rows: int, size: int = 6, categories: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    steps = torch.randint(0, 2, (rows, size), generator=generator) * torch.randint(
        0, 2, (rows, size), generator=generator
    )
    return steps.cumsum(1) % categories


def parameters(circuit: Circuit) -> int:
    return sum(p.numel() for p in circuit.parameters())


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("c", [2, 4])
def test_sizes_of_a_hidden_chow_liu_tree(m: int, c: int) -> None:
    graph = hclt_graph(PARENTS, [Categorical(c)] * 7, m)
    assert graph.num_edges == m + 2 * m * m  # the root's prior, and two latents below it
    assert parameters(Circuit(graph)) == graph.num_edges + 7 * m * c
    assert graph.is_tree and graph.is_structured_decomposable
    inputs = [node for node in graph.nodes if isinstance(node, Input)]
    assert sorted(node.variable for node in inputs) == list(range(7))
    assert sum(isinstance(node, Sum) for node in graph.nodes) == 3


def test_latents_of_several_sizes() -> None:
    sizes = [9, 9, 2, 3, 4, 9, 9]  # of variables without children: not used
    graph = hclt_graph(PARENTS, [Categorical(2)] * 7, sizes)
    assert graph.num_edges == 2 + 2 * 3 + 3 * 4
    units = {node.variable: node.units for node in graph.nodes if isinstance(node, Input)}
    assert units == {0: 2, 1: 2, 2: 2, 3: 3, 4: 4, 5: 3, 6: 4}
    x = torch.cartesian_prod(*[torch.arange(2)] * 7)
    torch.testing.assert_close(Circuit(graph).log_prob(x).logsumexp(0), torch.zeros(()), atol=1e-5, rtol=0)


def test_one_latent_state_is_independence() -> None:
    x = related(50)
    circuit = hclt(x, 1).double()
    tables = torch.empty(6, 3, dtype=torch.float64)
    for layer in circuit.inputs:
        tables[layer.variables] = layer.log_table()[:, :, 0].detach()
    expected = tables[torch.arange(6), x].sum(1)
    torch.testing.assert_close(circuit.log_prob(x).detach(), expected)


def test_single_variables() -> None:
    assert hclt_graph([-1], [Bernoulli()], 3).num_edges == 3
    x = torch.tensor([[0], [2], [2]])
    for circuit in (factorized(x, pseudocount=0.0), chow_liu(x, pseudocount=0.0)):
        torch.testing.assert_close(circuit.log_prob(x).exp().detach(), torch.tensor([1, 2, 2]) / 3)


@pytest.mark.parametrize(
    ("parents", "text"),
    [
        ([-1, -1], "expected one root, marked -1, got 2"),
        ([1, 0], "expected one root, marked -1, got 0"),
        ([-1, 2, 1], "expected a tree, got a cycle"),
        ([-1, 1], "expected a tree, got a cycle"),
        ([-1, 2], "expected variables below 2 or -1, got 2 for variable 1"),
        ([-1, -2], "expected variables below 2 or -1, got -2 for variable 1"),
    ],
)
def test_parents_that_form_no_tree(parents: list[int], text: str) -> None:
    with pytest.raises(ValueError, match="hclt_graph: argument 'parents': " + text):
        hclt_graph(parents, [Bernoulli()] * len(parents), 2)


def test_lists_of_other_lengths() -> None:
    with pytest.raises(ValueError, match="as many as families and latents, got 2; 3 families, 2 latents"):
        hclt_graph([-1, 0], [Bernoulli()] * 3, 2)
    with pytest.raises(ValueError, match="got 2; 2 families, 1 latents"):
        hclt_graph([-1, 0], [Bernoulli()] * 2, [2])
    with pytest.raises(ValueError, match="expected at least one unit, got 0"):
        hclt_graph([-1, 0], [Bernoulli()] * 2, 0)


# --- closed forms ---


@pytest.mark.parametrize("pseudocount", [0.0, 1.5])
def test_factorized_has_the_frequencies(pseudocount: float) -> None:
    x = related(40)
    circuit = factorized(x, pseudocount=pseudocount)
    counts = torch.stack([torch.bincount(column, minlength=3) for column in x.t()]).double()
    p = (counts + pseudocount / 3) / (40 + pseudocount)
    torch.testing.assert_close(
        circuit.log_prob(x).double().detach(), p[torch.arange(6), x].log().sum(1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("pseudocount", [0.0, 1.5])
def test_chow_liu_is_its_closed_form(pseudocount: float) -> None:
    """p(root) prod p(child | parent), each from counts, as a loop over the tree."""
    x = related(60)
    parents = tree_parents(x, 3, pseudocount)
    circuit = chow_liu(x, pseudocount=pseudocount)
    everything = torch.cartesian_prod(*[torch.arange(3)] * 6)
    expected = torch.ones(len(everything), dtype=torch.float64)
    for variable, parent in enumerate(parents):
        for state in range(3) if parent >= 0 else [None]:
            rows = x if state is None else x[x[:, parent] == state]
            counts = torch.bincount(rows[:, variable], minlength=3).double()
            p = (counts + pseudocount / 3) / (len(rows) + pseudocount)
            at = slice(None) if state is None else everything[:, parent] == state
            expected[at] *= p[everything[at, variable]]
    torch.testing.assert_close(circuit.log_prob(everything).exp().double().detach(), expected, rtol=1e-4, atol=1e-7)


def test_chow_liu_is_an_hclt_whose_latents_are_the_variables() -> None:
    """M = C and identity leaves, where no variable of x differs from the latent that it hangs on."""
    x, parents = related(60), [1, 2, -1, 2, 3, 4]
    graph = hclt_graph(parents, [Indicator(3)] * 6, 3)
    circuit = Circuit(graph)
    at = circuit.probabilities()
    flows = circuit.flows(x, at=at)
    circuit.em_update_(flows, at, pseudocount=1.0)
    circuit.load_probabilities_(at)
    # variables 0 and 5 have no children: they sit on their parent's latent and equal it
    equal = x[(x[:, 0] == x[:, 1]) & (x[:, 5] == x[:, 4])]
    root = (torch.bincount(equal[:, 2], minlength=3) + 1 / 3) / (len(equal) + 1)
    torch.testing.assert_close(at.sums[-1].flatten(), root, rtol=1e-4, atol=1e-5)
    assert torch.equal(circuit.log_prob(x) == -math.inf, (x[:, 0] != x[:, 1]) | (x[:, 5] != x[:, 4]))


def test_chow_liu_beats_every_other_tree_on_its_data() -> None:
    """Chow and Liu's theorem, over all trees of four variables."""
    x = related(80, size=4)
    n, log = len(x), math.log

    def information(i: int, j: int) -> float:
        pairs = torch.bincount(3 * x[:, i] + x[:, j], minlength=9).view(3, 3).double() / n
        p, q = pairs.sum(1), pairs.sum(0)
        return sum(
            float(pairs[a, b]) * log(pairs[a, b] / (p[a] * q[b])) for a in range(3) for b in range(3) if pairs[a, b]
        )

    def acyclic(edges: Any) -> bool:
        group = list(range(4))
        for i, j in edges:
            if group[i] == group[j]:
                return False
            group = [group[i] if g == group[j] else g for g in group]
        return True

    trees = [edges for edges in itertools.combinations(itertools.combinations(range(4), 2), 3) if acyclic(edges)]
    assert len(trees) == 16
    best = max(sum(information(i, j) for i, j in edges) for edges in trees)
    found = sum(information(v, p) for v, p in enumerate(tree_parents(x, 3, 0.0)) if p >= 0)
    assert math.isclose(found, best)
    gain = (chow_liu(x, pseudocount=0.0).log_prob(x).mean() - factorized(x, pseudocount=0.0).log_prob(x).mean()).item()
    assert math.isclose(gain, best, rel_tol=1e-4)


def test_wrong_data_is_named() -> None:
    x = related(20)
    for make in (lambda data: hclt(data, 2), factorized, chow_liu):
        with pytest.raises(TypeError, match="expected an integer"):
            make(x.float())
    with pytest.raises(TypeError, match="expected an integer tensor"):
        tree_parents(x > 0, 2)
    x[4, 2] = 251  # would fall in the last bin
    with pytest.raises(ValueError, match=r"expected values 0 .. 249, got 251 in row 4, column 2"):
        tree_parents(x, 250)
    with pytest.raises(ValueError, match="expected 6 numbers, one a column, got 2"):
        tree_parents(x, [250, 250])


def test_graphs_of_mixed_families() -> None:
    circuit = Circuit(factorized_graph([Gaussian(), Bernoulli(), Categorical(4)]))
    assert circuit.log_prob(torch.tensor([[0.0, 1, 3]])).isfinite().all()
