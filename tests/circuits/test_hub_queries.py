"""Queries on nodes of many children and on trees of extreme parameters, float32: truth is the graph walked node by node
in float64 and logarithms, every value of a target tried in turn."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import use_backend
from probkernels.circuits import Categorical, Circuit, Input, Product, Sum, hclt_graph
from torch import Tensor

CHILDREN = 64


def walked(
    circuit: Circuit, x: Tensor, missing: Tensor, most: bool = False, tables: list[Tensor] | None = None
) -> Tensor:
    """log p(x) (B,), by the definition; with ``most`` the largest p(x, z) instead."""
    parameters = tables or parameters_of(circuit)
    log_p = dict(zip([i for i, kind in enumerate(circuit.kinds) if kind is not Product], parameters, strict=True))
    values: list[Tensor] = []
    for node, (layer, row) in zip(circuit.graph.nodes, circuit.places, strict=True):
        if isinstance(node, Input):
            table = log_p[layer][row]  # (C, K)
            unknown = table.amax(0) if most else torch.zeros_like(table[0])
            seen = table[x[:, node.variable]]
            values.append(torch.where(missing[:, node.variable, None], unknown, seen))
        elif isinstance(node, Product):
            values.append(torch.stack([values[c] for c in node.children]).sum(0))
        else:
            terms = log_p[layer][row] + torch.cat([values[c] for c in node.children], 1)[:, None]
            values.append(terms.amax(2) if most else terms.logsumexp(2))
    return values[-1][:, 0]


def parameters_of(circuit: Circuit) -> list[Tensor]:
    """Log-probabilities of inputs (V, C, K) and sums (G, O, I), layer by layer, float64."""
    inputs, sums = iter(circuit.inputs), iter(circuit.sums)
    found = []
    for kind in circuit.kinds:
        if kind is Input:
            found.append(next(inputs).logits.detach().double().log_softmax(1))
        elif kind is Sum:
            found.append(next(sums).detach().double().log_softmax(2))
    return found


def extreme(parents: list[int], states: int, orders: float, zeros: float, seed: int) -> Circuit:
    """Of three categories; parameters down to 10^-orders, a share of the weights zero."""
    generator = torch.Generator().manual_seed(seed)
    circuit = Circuit(hclt_graph(parents, [Categorical(3)] * len(parents), states))
    with torch.no_grad():
        for logits in (*(layer.logits for layer in circuit.inputs), *circuit.sums):
            drawn = torch.rand(logits.shape, generator=generator)
            logits.copy_(-orders * 2.302585 * drawn**2)
        for logits in circuit.sums:
            gone = torch.rand(logits.shape, generator=generator) < zeros
            gone[..., 0] = False
            logits.masked_fill_(gone, -torch.inf)
    assert circuit.trees  # the fused path is tested
    return circuit


def hub(children: int) -> list[int]:
    return [-1] + [0] * children


def data(circuit: Circuit, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = batch, circuit.num_variables
    x = torch.randint(0, 3, shape, generator=generator)
    return x, torch.rand(shape, generator=generator) < 0.2


def each_value(circuit: Circuit, x: Tensor, missing: Tensor, target: int) -> Tensor:
    """(B, 3): p(target = c | all others)."""
    known = missing.clone()
    known[:, target] = False
    tried = []
    for c in range(3):
        other = x.clone()
        other[:, target] = c
        tried.append(walked(circuit, other, known))
    return torch.stack(tried, 1).softmax(1)


def check(circuit: Circuit, x: Tensor, missing: Tensor, targets: list[int]) -> None:
    with torch.no_grad():
        truth = walked(circuit, x, missing)
        torch.testing.assert_close(circuit.log_prob(x, missing).double(), truth, rtol=1e-5, atol=1e-4)
        expected = torch.stack([each_value(circuit, x, missing, t) for t in targets], 1)
        found = circuit.marginals(x, missing, targets).double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
        numbers = torch.arange(3).double()
        mean, variance = circuit.moments(x, missing)
        at = (expected * numbers).sum(2)
        torch.testing.assert_close(mean[:, targets].double(), at, rtol=1e-3, atol=5e-4)
        spread = (expected * (numbers - at[:, :, None]) ** 2).sum(2)
        torch.testing.assert_close(variance[:, targets].double(), spread, rtol=1e-3, atol=1e-3)
        known = missing.clone()
        known[:, targets] = False
        without = known.clone()
        without[:, targets] = True
        conditional = circuit.conditional(x, known, targets=targets).double()
        joint = walked(circuit, x, known)
        torch.testing.assert_close(conditional, joint - walked(circuit, x, without), rtol=1e-4, atol=1e-3)
        completed, value = circuit.mpe(x, missing)
        assert torch.equal(completed[~missing], x[~missing])
        torch.testing.assert_close(value.double(), walked(circuit, x, missing, most=True), rtol=1e-5, atol=1e-3)
        reached = walked(circuit, completed, torch.zeros_like(missing), most=True)  # what was filled in has that value
        torch.testing.assert_close(reached, value.double(), rtol=1e-5, atol=1e-3)


def check_flows(circuit: Circuit, x: Tensor, missing: Tensor) -> None:
    """Flows are derivatives in log parameters, and gradients those of logits."""
    tables = [t.requires_grad_() for t in parameters_of(circuit)]
    slopes = torch.autograd.grad(walked(circuit, x, missing, tables=tables).sum(), tables)
    slopes = tuple(s.nan_to_num() for s in slopes)  # -inf minus -inf: a weight of zero has no flow
    kinds = [kind for kind in circuit.kinds if kind is not Product]
    flows = circuit.flows(x, missing)
    for found, kind in ((flows.inputs, Input), (flows.sums, Sum)):
        expected = [s for s, k in zip(slopes, kinds, strict=True) if k is kind]
        for got, truth in zip(found, expected, strict=True):
            torch.testing.assert_close(got.double(), truth.detach(), rtol=1e-3, atol=1e-4 * len(x))


PARENTS = {"hub of children": hub(CHILDREN), "hub of chains": [-1] + [p for k in range(60) for p in (0, 1 + 2 * k)]}


@pytest.mark.parametrize("orders", [2.0, 12.0, 30.0])
@pytest.mark.parametrize("shape", PARENTS)
@pytest.mark.parametrize("states", [2, 5])
def test_queries_on_a_hub(shape: str, states: int, orders: float) -> None:
    circuit = extreme(PARENTS[shape], states, orders, 0.0, 1)
    x, missing = data(circuit, 6, 2)
    last = circuit.num_variables - 1
    check(circuit, x, missing, [0, 1, last // 2, last])
    check_flows(circuit, x, missing)


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_hub_on_each_backend(name: str) -> None:
    circuit = extreme(PARENTS["hub of children"], 3, 20.0, 0.2, 5)
    x, missing = data(circuit, 3, 6)
    with use_backend(name):
        check(circuit, x, missing, [0, 40])
        check_flows(circuit, x, missing)


@given(seed=st.integers(0, 10**6), states=st.sampled_from([2, 4]), orders=st.sampled_from([1.0, 8.0, 25.0, 35.0]))
@settings(max_examples=25, deadline=None)
def test_queries_on_random_trees(seed: int, states: int, orders: float) -> None:
    rng = random.Random(seed)
    size = rng.choice([2, 7, 30])
    parents = [-1] + [rng.randrange(max(0, k - rng.choice([1, 3, 30])), k) for k in range(1, size)]
    circuit = extreme(parents, states, orders, 0.0, seed)
    x, missing = data(circuit, 4, seed)
    check(circuit, x, missing, sorted({0, size // 2, size - 1}))
    check_flows(circuit, x, missing)


@pytest.mark.parametrize("orders", [2.0, 15.0])
def test_draws_on_a_hub_are_as_frequent_as_they_are_probable(orders: float) -> None:
    """The hub and one child are drawn, given all other children."""
    circuit = extreme(PARENTS["hub of children"], 3, orders, 0.0, 3)
    x, _ = data(circuit, 3, 4)
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing[:, [0, 7]] = True
    n = 4000
    drawn = circuit.sample(n, given=x, missing=missing[0], seed=0)
    assert torch.equal(drawn[:, ~missing], x[~missing].expand(n, -1))
    for target in (0, 7):
        share = torch.stack([(drawn[:, :, target] == c).double().mean(0) for c in range(3)], 1)
        p = each_value(circuit, x, missing, target)
        assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()
