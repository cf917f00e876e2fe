"""Pruning and growing: what must not change does not, the bound on the loss holds, and bits fall."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from probkernels.circuits import (
    EM,
    Categorical,
    Circuit,
    Graph,
    Indicator,
    Input,
    Product,
    Sum,
    factorized,
    grow,
    grow_fit,
    hclt,
    hclt_graph,
    load,
    mixture,
    prune,
    prune_states,
)
from probkernels.circuits._training import mean_log_prob
from probkernels.circuits.nodes import Alignment, by_sum, rebuild
from torch import Tensor

from tests.circuits.models import DISCRETE, MIXED, data, holes, random_graph


def trained(families: list[Any], seed: int, outer: bool = False, count: int = 40) -> tuple[Circuit, Tensor, Tensor]:
    x = data(families, count, seed)
    missing = holes(x, seed)
    circuit = Circuit(random_graph(families, seed, outer=outer), data=x, seed=seed).double()
    EM(circuit, batch_size=None).fit(x, missing, epochs=3, progress=False)
    return circuit, x, missing


def tree(count: int = 400, states: int = 4) -> tuple[Circuit, Tensor]:
    """A latent tree of four variables and of two that never change."""
    x = torch.cat([data([Categorical(6)] * 4, count, 0), torch.zeros(count, 2, dtype=torch.long)], 1)
    circuit = Circuit(hclt_graph([1, -1, 1, 2, 2, 4], [Categorical(6)] * 6, states)).double()
    EM(circuit, batch_size=None, pseudocount=0.01).fit(x, epochs=20, progress=False)
    return circuit, x


@pytest.mark.parametrize(("families", "outer"), [(DISCRETE, False), (MIXED, False), (DISCRETE, True), (MIXED, True)])
def test_growing_without_noise_changes_nothing(families: list[Any], outer: bool) -> None:
    for seed in range(3):
        circuit, x, missing = trained(families, seed, outer)
        for bigger in (grow(circuit, noise=0.0), grow(circuit, x, missing, fraction=0.4, noise=0.0)):
            torch.testing.assert_close(bigger.log_prob(x, missing), circuit.log_prob(x, missing), rtol=1e-9, atol=1e-9)
            assert bigger.graph.num_edges > circuit.graph.num_edges
            again = grow(bigger, noise=0.0)
            torch.testing.assert_close(again.log_prob(x), circuit.log_prob(x), rtol=1e-9, atol=1e-9)


def test_growing_doubles_states_and_noise_tells_them_apart() -> None:
    circuit, x = tree()
    quiet, loud, other = grow(circuit, noise=0.0), grow(circuit, noise=0.3), grow(circuit, noise=0.3, seed=1)
    inner = {place: units for place, units in enumerate(circuit.graph.units) if units > 1}
    assert {p: u for p, u in enumerate(quiet.graph.units) if u > 1} == {p: 2 * u for p, u in inner.items()}
    values = [c.log_prob(x).detach() for c in (circuit, loud, other)]
    assert not torch.allclose(values[0], values[1], atol=1e-3)
    assert not torch.allclose(values[1], values[2], atol=1e-3)
    histories = [EM(c, batch_size=None).fit(x, epochs=20, progress=False).train for c in (quiet, loud)]
    assert histories[1][-1] > histories[0][-1] + 0.05  # copies that are alike stay alike
    p = torch.cartesian_prod(*[torch.arange(3)] * 4)
    three = Circuit(hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, 2)).double()
    assert grow(three, noise=0.5).log_prob(p).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_states_are_doubled_where_bits_are_spent() -> None:
    circuit, x = tree()
    bigger = grow(circuit, x, fraction=0.5)
    sizes = {circuit.graph.nodes[p].variable: u for p, u in enumerate(bigger.graph.units) if p in _inputs(circuit)}
    assert sizes[4] == sizes[5] == 4  # below this latent nothing ever changes
    assert sizes[1] > 4
    assert bigger.graph.is_tree


def _inputs(circuit: Circuit) -> list[int]:
    return [place for place, node in enumerate(circuit.graph.nodes) if isinstance(node, Input)]


@pytest.mark.parametrize(("families", "outer"), [(DISCRETE, False), (MIXED, False), (DISCRETE, True), (MIXED, True)])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_pruned_circuits_are_normalized_and_keep_the_part(families: list[Any], outer: bool, keep: float) -> None:
    for seed in range(3):
        circuit, x, missing = trained(families, seed, outer)
        smaller = prune(circuit, x, missing, keep=keep)
        assert smaller.graph.num_edges < circuit.graph.num_edges
        nothing = torch.ones(1, len(families), dtype=torch.bool)
        assert smaller.log_prob(x[:1], nothing).item() == pytest.approx(0, abs=1e-9)
        assert Graph.from_json(smaller.graph.to_json()) == smaller.graph
        torch.testing.assert_close(prune(circuit, x, keep=1.0).log_prob(x), circuit.log_prob(x), rtol=1e-9, atol=1e-9)


def test_the_loss_of_pruning_is_bounded() -> None:
    """Without one edge the mean log-likelihood falls by at most the mean of -log(1 - its flow)."""
    circuit, x = tree(60)
    now = circuit.log_prob(x).detach()
    each = [by_sum(circuit, circuit.flows(row[None]).sums) for row in x]
    flows = {place: torch.stack([flow[place] for flow in each]) for place in each[0]}
    for place, weights in by_sum(circuit, circuit.weights()).items():
        rows, columns = weights.shape
        for o, i in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)]:
            flow = flows[place][:, o, i]
            edges = torch.ones(rows, columns, dtype=torch.bool)
            edges[o, i] = False
            without = rebuild(circuit, {}, edges={place: edges}).log_prob(x).detach()
            assert (now - without).mean() <= -torch.log1p(-flow.clamp(max=1)).mean() + 1e-9


def test_the_edges_of_least_flow_go() -> None:
    circuit, x = tree()
    smaller = prune(circuit, x, keep=0.5)
    lost = mean_log_prob(circuit, x) - mean_log_prob(smaller, x)
    flows, weights = circuit.flows(x).sums, circuit.weights()
    limit = torch.cat([f.flatten() for f in flows]).median()
    small = sum(((f <= limit) * f).sum().item() for f in flows)
    assert abs(lost) <= 3 * small / len(x)
    kept = sum(int((w > 0).sum()) for w in smaller.weights())
    assert kept == smaller.graph.num_edges <= 0.6 * sum(w.numel() for w in weights)


def test_pruned_edges_stay_away_in_training() -> None:
    circuit, x = tree()
    smaller = prune(circuit, x, keep=0.3)
    gone = [w == 0 for w in smaller.weights()]
    assert any(mask.any() for mask in gone)
    history = EM(smaller, batch_size=None).fit(x, epochs=10, progress=False)
    assert history.train[-1] > history.train[0]
    for w, mask in zip(smaller.weights(), gone, strict=True):
        assert torch.equal(w == 0, mask)
    smaller.log_prob(x).mean().backward()
    assert all(logits.grad.isfinite().all() for logits in smaller.sums)


def test_units_without_parents_go() -> None:
    """A state that no edge leads to disappears with its inputs, its product and all that only it needs."""
    circuit, x = tree()
    with torch.no_grad():
        for logits in circuit.sums:
            if logits.shape[1] == 1:
                logits[0, 0, :2] = -torch.inf
    smaller = prune(circuit, x, keep=1.0)
    torch.testing.assert_close(smaller.log_prob(x), circuit.log_prob(x), rtol=1e-9, atol=1e-9)
    root = smaller.graph.nodes[-1]
    assert smaller.graph.units[root.children[0]] == 2
    assert len(smaller.graph.nodes) == len(circuit.graph.nodes)


@pytest.mark.parametrize(("families", "outer"), [(DISCRETE, False), (MIXED, True)])
def test_pruning_states_gives_every_latent_its_size(families: list[Any], outer: bool) -> None:
    for seed in range(3):
        circuit, x, missing = trained(families, seed, outer)
        smaller = prune_states(circuit, x, missing, keep=0.5)
        assert all(node.edge_mask is None for node in smaller.graph.nodes if isinstance(node, Sum))
        assert smaller.graph.num_edges < circuit.graph.num_edges
        nothing = torch.ones(1, len(families), dtype=torch.bool)
        assert smaller.log_prob(x[:1], nothing).item() == pytest.approx(0, abs=1e-9)


def test_states_that_nothing_is_in_go_first() -> None:
    circuit, x = tree()
    with torch.no_grad():
        for logits in circuit.sums:
            if logits.shape[1] == 1:
                logits[0, 0, 0] = -100
    smaller = prune_states(circuit, x, keep=11 / 12)
    root = smaller.graph.nodes[-1]
    assert smaller.graph.units[root.children[0]] == 3
    torch.testing.assert_close(smaller.log_prob(x), circuit.log_prob(x), rtol=1e-9, atol=1e-9)


def test_a_component_that_nothing_uses_keeps_a_unit() -> None:
    x = torch.randint(0, 3, (200, 4), generator=torch.Generator().manual_seed(0))
    used = hclt(x, latents=3)
    unused = factorized(torch.zeros_like(x), categories=3, pseudocount=0.0)  # explains the rows of zeros alone
    both = mixture([used, unused], weights=[1, 1e-6])
    pruned = prune(both, x[x.any(1)], keep=0.1)
    everything = torch.cartesian_prod(*[torch.arange(3)] * 4)
    assert math.isclose(pruned.log_prob(everything).exp().sum().item(), 1, abs_tol=1e-5)
    alone = prune(used, x[x.any(1)], keep=1e-6)
    few = prune(both, x[x.any(1)], keep=1e-6)
    torch.testing.assert_close(few.log_prob(everything), alone.log_prob(everything), atol=1e-4, rtol=0)


def test_pruning_states_of_a_pruned_circuit() -> None:
    circuit, x = tree()
    smaller = prune_states(prune(circuit, x, keep=0.2), x, keep=0.2)
    nothing = torch.ones(1, 6, dtype=torch.bool)
    assert smaller.log_prob(x[:1], nothing).item() == pytest.approx(0, abs=1e-9)
    assert smaller.log_prob(x).isfinite().all()


def test_sets_that_cannot_change_are_left_alone() -> None:
    a, b, c = (Input(v, 2, Categorical(2)) for v in range(3))
    coin = Indicator(2)
    nodes = [a, b, Product((0, 1), outer=True), Input(2, 4, Categorical(2)), Product((2, 3)), Sum((4,), 1)]
    assert Alignment(Graph(nodes)).free() == []  # the outer product is tied to the input of variable 2
    free = Alignment(Graph([a, b, Product((0, 1), outer=True), Sum((2,), 2), c, Product((3, 4)), Sum((5,), 1)])).free()
    assert len(free) == 3
    fixed = Graph([Input(0, 2, coin), Input(1, 2, Categorical(2)), Product((0, 1)), Sum((2,), 1)])
    assert Alignment(fixed).free() == []
    x = torch.tensor([[0, 1], [1, 0]])
    circuit = Circuit(fixed)
    for same in (grow(circuit), grow(circuit, x, fraction=0.5), prune_states(circuit, x)):
        torch.testing.assert_close(same.log_prob(x), circuit.log_prob(x))


def test_the_loop_lowers_bits_and_keeps_the_best(tmp_path: Path) -> None:
    x = data([Categorical(6)] * 5, 900, 1)
    circuit = hclt(x[:600], latents=2, categories=6)
    EM(circuit, batch_size=100).fit(x[:600], epochs=20, progress=False)
    before = {name: t.clone() for name, t in circuit.state_dict().items()}
    settings: dict[str, Any] = {"validation": x[600:], "rounds": 3, "epochs": 10, "batch_size": 100, "progress": False}
    better, rounds = grow_fit(circuit, x[:600], file=tmp_path / "best", **settings)
    assert all(torch.equal(before[name], t) for name, t in circuit.state_dict().items())
    assert 1 <= len(rounds) <= 3
    assert mean_log_prob(better, x[600:]) > mean_log_prob(circuit, x[600:]) + 0.02
    assert mean_log_prob(load(tmp_path / "best"), x[600:]) == mean_log_prob(better, x[600:])
    sparse, _ = grow_fit(circuit, x[:600], by="edges", keep=0.5, **settings)
    assert mean_log_prob(sparse, x[600:]) > mean_log_prob(circuit, x[600:])
    same, none = grow_fit(circuit, x[:600], max_edges=1, **settings)
    assert same is circuit
    assert none == []


def test_wrong_input_is_named() -> None:
    circuit, x = tree(20)
    for call in (prune, prune_states):
        for keep, kind in ((0.0, ValueError), (1.5, ValueError), ("all", TypeError)):
            with pytest.raises(kind, match="'keep'"):
                call(circuit, x, keep=keep)
    with pytest.raises(ValueError, match=r"'x'.*fraction is below 1"):
        grow(circuit, fraction=0.5)
    with pytest.raises(ValueError, match="'noise'"):
        grow(circuit, noise=-1.0)
    with pytest.raises(ValueError, match="'by'"):
        grow_fit(circuit, x, validation=x, by="nodes")
