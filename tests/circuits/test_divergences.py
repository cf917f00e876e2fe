"""Entropies, divergences and products against sums over all states."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from probkernels.circuits import (
    Categorical,
    Circuit,
    Gaussian,
    Graph,
    Indicator,
    Input,
    Product,
    Sum,
    cauchy_schwarz_divergence,
    chow_liu,
    factorized_graph,
    renyi_entropy,
    squared_distance,
)
from torch import Tensor

from tests.circuits import toy

CIRCUITS = toy.discrete()
DETERMINISTIC = ["chow_liu", "factorized", "split"]
STRUCTURED = ["vtree0", "vtree1", "vtree2", "hclt", "factorized", "chow_liu"]


def other(circuit: Circuit) -> Circuit:
    """Other parameters of the same structure."""
    return toy.shaken(Circuit(circuit.graph), 11)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.detach(), expected, rtol=1e-10, atol=1e-12)


def normal_pair(seed: int) -> tuple[Circuit, Circuit]:
    """Two mixtures of three normal densities."""
    graph = Graph([Input(0, 3, Gaussian()), Sum((0,), 1)])
    return toy.shaken(Circuit(graph), seed, 0.7), toy.shaken(Circuit(graph), seed + 1, 0.7)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_entropy(name: str) -> None:
    p = toy.joint(CIRCUITS[name])
    close(CIRCUITS[name].entropy(), -torch.xlogy(p, p).sum())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_kullback_leibler(name: str) -> None:
    circuit = CIRCUITS[name]
    p, q = toy.joint(circuit), toy.joint(other(circuit))
    close(circuit.kl(other(circuit)), (torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


def test_zeros_are_infinitely_far_one_way() -> None:
    """q never has (0, 1), which p has; what neither has costs nothing."""
    p = chow_liu(torch.tensor([[0, 0], [0, 1], [1, 1]]), categories=3, pseudocount=0.0)
    q = Circuit(p.graph)
    q.load_state_dict(p.state_dict())
    at = q.probabilities()
    flows = q.flows(torch.tensor([[0, 0], [1, 1]]), at=at)
    q.em_update_(flows, at)
    q.load_probabilities_(at)
    assert p.kl(q).item() == math.inf
    assert q.kl(p).item() == pytest.approx(math.log(1.5), rel=1e-6)
    assert p.entropy().item() == pytest.approx(math.log(3), rel=1e-6)


def test_normal_entropies_and_divergences() -> None:
    p, q = Circuit(factorized_graph([Gaussian()] * 2)).double(), Circuit(factorized_graph([Gaussian()] * 2)).double()
    toy.shaken(p, 1)
    toy.shaken(q, 2)
    ours, theirs = (
        torch.distributions.Normal(c.inputs[0].location.detach(), c.inputs[0].log_scale.detach().exp()) for c in (p, q)
    )
    close(p.entropy(), ours.entropy().sum())
    close(p.kl(q), torch.distributions.kl_divergence(ours, theirs).sum())


@pytest.fixture
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_double")
def test_entropies_with_float64_as_the_default() -> None:
    x = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1]])
    circuit = chow_liu(x, pseudocount=0.0)
    assert circuit.is_deterministic
    assert circuit.entropy().item() == pytest.approx(1.5 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("name", ["dag0", "hclt", "vtree0"])
def test_no_guess_where_the_circuit_is_not_deterministic(name: str) -> None:
    circuit = CIRCUITS[name]
    assert not circuit.is_deterministic
    for ask in (circuit.entropy, lambda: circuit.kl(circuit)):
        with pytest.raises(NotImplementedError, match=r"expected a deterministic circuit.* Hint: renyi_entropy"):
            ask()


@pytest.mark.parametrize("name", STRUCTURED)
def test_overlaps(name: str) -> None:
    circuit = CIRCUITS[name]
    p, q = toy.joint(circuit), toy.joint(other(circuit))
    close(circuit.overlap(other(circuit)).exp(), (p * q).sum())
    close(renyi_entropy(circuit), -(p * p).sum().log())
    close(squared_distance(circuit, other(circuit)), (p - q).square().sum())
    cosine = (p * q).sum() / ((p * p).sum() * (q * q).sum()).sqrt()
    close(cauchy_schwarz_divergence(circuit, other(circuit)), -cosine.log())
    assert abs(cauchy_schwarz_divergence(circuit, circuit).item()) < 1e-12


def test_neighbors_in_float32_have_a_distance() -> None:
    """It is eight orders of magnitude below the overlaps whose difference it is."""
    p = copy.deepcopy(CIRCUITS["hclt"]).float()
    q = copy.deepcopy(p)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter += 1e-4 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    one, two = toy.joint(copy.deepcopy(p).double()), toy.joint(copy.deepcopy(q).double())
    cosine = (one * two).sum() / ((one * one).sum() * (two * two).sum()).sqrt()
    for got, truth in (
        (squared_distance(p, q), (one - two).square().sum()),
        (cauchy_schwarz_divergence(p, q), -cosine.log()),
    ):
        assert got.dtype is torch.float32 and got.item() == pytest.approx(truth.item(), rel=0.01)
    assert 0 <= squared_distance(p, p) < 1e-15 and 0 <= cauchy_schwarz_divergence(p, p) < 1e-15
    assert p.overlap(q).dtype is renyi_entropy(p).dtype is torch.float32


def test_the_overlap_of_normal_mixtures_by_integration() -> None:
    p, q = normal_pair(3)
    grid = torch.linspace(-40, 40, 40001, dtype=torch.float64)
    with torch.no_grad():
        product = toy.node_values(p, grid[:, None])[-1][0] * toy.node_values(q, grid[:, None])[-1][0]
    close(p.overlap(q).exp(), torch.trapezoid(product, grid))


def test_overlap_refuses_splits_that_do_not_match() -> None:
    graph = CIRCUITS["split"].graph
    assert not graph.is_structured_decomposable
    with pytest.raises(NotImplementedError, match="split one scope differently"):
        CIRCUITS["split"].overlap(CIRCUITS["split"])


def test_only_circuits_of_one_graph_are_compared() -> None:
    for ask in (CIRCUITS["chow_liu"].kl, CIRCUITS["chow_liu"].overlap):
        with pytest.raises(ValueError, match=r"argument 'other': expected a circuit of the same graph"):
            ask(CIRCUITS["factorized"])
        with pytest.raises(TypeError, match=r"argument 'other': expected a circuit, got int 1"):
            ask(1)


def test_deep_chains_do_not_overflow_the_stack() -> None:
    """A recursion would go 800 pairs deep, beside what called it."""
    nodes = [Input(0, 2, Categorical(2)), *[Sum((place,), 2) for place in range(400)], Sum((400,), 1)]
    circuit = Circuit(Graph(nodes)).double()
    p = circuit.log_prob(torch.tensor([[0], [1]])).exp().detach()
    close(circuit.overlap(circuit).exp(), p @ p)


@pytest.mark.parametrize("name", ["chow_liu", "split"])
def test_gradients_in_the_presence_of_zeros(name: str) -> None:
    """Theta-weighted: edges that are masked out take part in the graph of the derivative and must not spoil it."""
    circuit = Circuit(CIRCUITS[name].graph).double()
    total = circuit.entropy() + circuit.kl(other(circuit))
    if name == "chow_liu":
        total = total + circuit.overlap(other(circuit))
    total.backward()
    grads = [p.grad for p in circuit.parameters()]
    assert all(g.isfinite().all() for g in grads)
    assert any(g.abs().max() > 0 for g in grads)
    step, changed = 1e-6, circuit.sums[-1]
    slope = grads[len(circuit.sums) - 1].clone()
    direction = torch.where(changed.isfinite(), torch.randn_like(changed), 0.0)
    values = []
    for sign in (1, -1):
        changed.data += sign * step * direction
        values.append(circuit.entropy() + circuit.kl(other(circuit)))
        values[-1] = values[-1] + (circuit.overlap(other(circuit)) if name == "chow_liu" else 0.0)
        changed.data -= sign * step * direction
    numeric = ((values[0] - values[1]) / (2 * step)).detach()
    torch.testing.assert_close(numeric, (slope * direction).sum(), rtol=1e-5, atol=1e-8)


# --- the structural check ---


def binary(*rest: object) -> bool:
    return Circuit(Graph([Input(0, 2, Indicator(2)), Input(1, 2, Categorical(2)), *rest])).is_deterministic


def test_determinism_is_read_off_supports() -> None:
    assert binary(Product((0, 1)), Sum((2,), 1))
    assert not binary(Product((0, 1), outer=True), Sum((2,), 1))  # units (0, j) differ in the categorical only
    assert not binary(Product((0, 1), outer=True), Sum((2,), 1, ((True, True, False, False),)))
    assert binary(Product((0, 1), outer=True), Sum((2,), 1, ((True, False, False, True),)))
    assert not binary(Sum((0,), 2), Product((2, 1)), Sum((3,), 1))  # mixing hides the indicator
    kept = ((True, False), (False, True))
    assert binary(Sum((0,), 2, kept), Product((2, 1)), Sum((3,), 1))
    assert not binary(Product((0, 1)), Sum((2, 2), 1))
    both = Graph([*(Input(v, 2, Indicator(2)) for v in range(2)), Product((0, 1), outer=True), Sum((2,), 1)])
    assert Circuit(both).is_deterministic  # some pairs of units differ in variable 0 only, others in 1 only
    assert CIRCUITS["split"].is_deterministic
