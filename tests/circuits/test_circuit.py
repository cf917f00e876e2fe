"""Log-likelihoods against brute force, evidence of every kind, and the module's life: copies, dtypes, compilation."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from probkernels.circuits import (
    Bernoulli,
    Categorical,
    Circuit,
    DiscretizedLogistic,
    Gaussian,
    Graph,
    Indicator,
    Input,
    Product,
    Sum,
    Vtree,
    from_vtree,
)
from probkernels.circuits.families import Family
from torch import Tensor

FAMILIES = [Categorical(3), Bernoulli(), Indicator(2), DiscretizedLogistic(4), Gaussian()]


def pair(family: Family) -> Graph:
    """Two variables; a shared sum, an outer product and a pruned sum."""
    units = family.categories if isinstance(family, Indicator) else 2
    nodes = [
        Input(0, units, family),
        Input(1, 2, Bernoulli()),
        Sum((0,), 2),
        Product((2, 1)),
        Product((2, 1), outer=True),
    ]
    return Graph([*nodes, Sum((3, 4), 2), Sum((5,), 1, ((True, True),))])


def naive(circuit: Circuit, x: Tensor) -> float:
    """The density at one observation by recursion over the graph in plain numbers: no log space, no layers."""
    graph, weights, inputs = circuit.graph, iter(circuit.weights()), iter(circuit.inputs)
    layers = [next(weights) if kind is Sum else next(inputs) if kind is Input else None for kind in circuit.kinds]

    def value(place: int) -> list[float]:
        node, (layer, row) = graph.nodes[place], circuit.places[place]
        if isinstance(node, Input):
            observed = x[node.variable].item()
            if isinstance(node.family, Gaussian):
                normal = torch.distributions.Normal(layers[layer].location[row], layers[layer].log_scale[row].exp())
                return normal.log_prob(torch.tensor(observed)).exp().tolist()
            return layers[layer].log_table()[row, int(observed)].exp().tolist()
        below = [value(child) for child in node.children]
        if isinstance(node, Sum):
            units = torch.tensor([unit for units in below for unit in units], dtype=weights_dtype)
            return (layers[layer][row] @ units).tolist()
        if node.outer:
            return [a * b for a in below[0] for b in below[1]]
        return [math.prod(units) for units in zip(*below, strict=True)]

    weights_dtype = next(layer.dtype for layer in layers if isinstance(layer, Tensor))
    return value(len(graph.nodes) - 1)[0]


def states(circuit: Circuit) -> Tensor:
    return torch.tensor(list(itertools.product(*(range(int(c)) for c in circuit.categories))))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_log_prob_is_what_brute_force_says(family: Family, seed: int) -> None:
    circuit = Circuit(pair(family), seed=seed).double()
    if family.discrete:
        x = states(circuit)
        assert math.isclose(circuit.log_prob(x).exp().sum().item(), 1, abs_tol=1e-9)
    else:
        x = torch.stack([torch.linspace(-2, 2, 6), torch.tensor([0.0, 1] * 3)], 1).double()
    expected = torch.tensor([naive(circuit, row) for row in x], dtype=torch.float64).log()
    torch.testing.assert_close(circuit.log_prob(x).detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.discrete], ids=lambda f: type(f).__name__)
def test_marginals_are_sums(family: Family) -> None:
    circuit = Circuit(pair(family)).double()
    x = states(circuit)
    for variable in range(2):
        missing = torch.arange(2) == variable
        for value in range(int(circuit.categories[1 - variable])):
            rows = x[x[:, 1 - variable] == value]
            total = circuit.log_prob(rows).exp().sum()
            torch.testing.assert_close(circuit.log_prob(rows[:1], missing).exp()[0], total)


def test_gaussians_integrate_to_one_and_are_marginalized() -> None:
    circuit = Circuit(pair(Gaussian())).double()
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    x = torch.stack([grid, torch.ones_like(grid)], 1)
    mass = torch.trapezoid(circuit.log_prob(x).exp(), grid)
    marginal = circuit.log_prob(x[:1], torch.tensor([True, False])).exp()[0]
    torch.testing.assert_close(mass, marginal, rtol=1e-6, atol=1e-9)


# --- evidence ---


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_rows_with_nothing_observed_have_log_probability_zero(family: Family) -> None:
    circuit = Circuit(pair(family))
    x = torch.full((4, 2), 77, dtype=torch.int64 if family.discrete else torch.float32)
    x = x if family.discrete else x * torch.nan
    missing = torch.ones(4, 2, dtype=torch.bool)
    torch.testing.assert_close(circuit.log_prob(x, missing), torch.zeros(4), atol=1e-5, rtol=0)
    flows = circuit.flows(x, missing)
    assert all(flow.isfinite().all() for flow in [*flows.sums, *flows.inputs])


def refused(circuit: Circuit, error: type[Exception], text: str, *arguments: Any) -> None:
    with pytest.raises(error) as caught:
        circuit.log_prob(*arguments)
    assert text in str(caught.value)


def test_wrong_evidence_is_named() -> None:
    circuit = Circuit(pair(Categorical(3)))
    good = torch.tensor([[2, 1], [0, 0]])
    refused(circuit, TypeError, "argument 'x': expected a tensor, got list", [[0, 1]])
    refused(circuit, TypeError, "expected an integer dtype for discrete variables, got torch.float32", good.float())
    refused(circuit, ValueError, "expected shape (B, 2), got shape (2,)", good[0])
    refused(circuit, ValueError, "expected shape (B, 2), got shape (2, 3)", good.new_zeros(2, 3))
    refused(circuit, ValueError, "values 0 .. 1 of variable 1, got 2 at item 0", torch.tensor([[0, 2], [0, 0]]))
    refused(circuit, ValueError, "values 0 .. 2 of variable 0, got -1 at item 1", torch.tensor([[0, 1], [-1, 0]]))
    refused(circuit, ValueError, f"got {2**32 + 1} at item 0", torch.tensor([[2**32 + 1, 0]]))
    refused(circuit, TypeError, "argument 'missing': expected a bool tensor", good, torch.zeros(2, 2))
    refused(circuit, ValueError, "expected the shape of x (2, 2) or (2,), got shape (3,)", good, torch.ones(3) > 0)


def test_wrong_real_evidence_is_named() -> None:
    circuit = Circuit(pair(Gaussian()))
    refused(
        circuit, TypeError, "expected a float dtype for continuous variables, got torch.int64", torch.tensor([[0, 1]])
    )
    for wrong in (math.nan, math.inf):
        refused(
            circuit,
            ValueError,
            f"expected finite numbers, got {wrong} at item 0, variable 0",
            torch.tensor([[wrong, 1]]),
        )
    refused(circuit, ValueError, "expected whole numbers, got 0.5 at item 0, variable 1", torch.tensor([[0, 0.5]]))
    refused(circuit, ValueError, "expected whole numbers, got nan at item 0, variable 1", torch.tensor([[0, math.nan]]))
    refused(circuit, ValueError, "expected values 0 .. 1 of variable 1, got 2 at item 0", torch.tensor([[0, 2.0]]))
    x = torch.tensor([[math.nan, 1], [0.5, math.nan]])
    seen = torch.tensor([[0.0, 1], [0.5, 0]])
    assert torch.equal(circuit.log_prob(x, x.isnan()), circuit.log_prob(seen, x.isnan()))


def test_what_missing_values_hold_does_not_matter() -> None:
    circuit = Circuit(pair(Categorical(3)))
    missing = torch.tensor([[True, False]])
    found = [circuit.log_prob(torch.tensor([[value, 1]]), missing).item() for value in (0, 2, -7, 2**40)]
    assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_evidence_is_minus_infinity_without_nan(dtype: torch.dtype) -> None:
    inputs = [Input(0, 2, Indicator(2)), Input(1, 2, Indicator(2))]
    circuit = Circuit(Graph([*inputs, Product((0, 1)), Sum((2,), 1)])).to(dtype)  # both are equal
    x = torch.tensor([[0, 1], [0, 0], [1, 0]])
    value = circuit.log_prob(x)
    assert value.tolist()[0] == value.tolist()[2] == -math.inf and value[1].isfinite()
    gradients = torch.autograd.grad(value.sum(), list(circuit.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    flows = circuit.flows(x)
    assert all(flow.isfinite().all() for flow in [*flows.sums, *flows.inputs])
    torch.testing.assert_close(flows.sums[0].sum(), torch.ones((), dtype=dtype))  # of the one possible row
    only = circuit.flows(x[:1])
    assert all((flow == 0).all() for flow in [*only.sums, *only.inputs])


def test_empty_batches() -> None:
    for family in FAMILIES:
        circuit = Circuit(pair(family))
        x = torch.empty(0, 2, dtype=torch.int64 if family.discrete else torch.float32)
        assert circuit.log_prob(x).shape == (0,)
        flows = circuit.flows(x, torch.empty(0, 2, dtype=torch.bool))
        assert all((flow == 0).all() for flow in flows.sums)


def test_dtypes_and_strides_of_data_do_not_matter() -> None:
    circuit = Circuit(from_vtree(Vtree.balanced(range(5)), [Bernoulli()] * 5, 3))
    x = torch.randint(0, 2, (16, 5))
    expected = circuit.log_prob(x)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool):
        assert torch.equal(circuit.log_prob(x.to(dtype)), expected)
    wide = torch.zeros(16, 10, dtype=torch.int64)
    wide[:, ::2] = x
    assert torch.equal(circuit.log_prob(wide[:, ::2]), expected)
    assert torch.equal(circuit.log_prob(x.t().contiguous().t()), expected)
    assert torch.equal(circuit.log_prob(x[:1].expand(16, 5)), expected[:1].expand(16))
    before = x.clone()
    circuit.log_prob(x, x == 1)
    assert torch.equal(x, before)


# --- the module ---


def mixed() -> tuple[Circuit, Tensor]:
    graph = from_vtree(
        Vtree.balanced(range(5)), [Categorical(3), Gaussian(), Bernoulli(), DiscretizedLogistic(4), Indicator(2)], 2
    )
    x = torch.tensor([[2, 0.3, 1, 3, 0], [0, -1.5, 0, 1, 1], [1, 0, 1, 0, 1]])
    return Circuit(graph, data=x, seed=3), x


def test_copies_and_states_give_the_same() -> None:
    circuit, x = mixed()
    expected = circuit.log_prob(x)
    clone = copy.deepcopy(circuit)
    assert torch.equal(clone.log_prob(x), expected)
    with torch.no_grad():
        clone.sums[0].add_(torch.randn_like(clone.sums[0]))
    assert torch.equal(circuit.log_prob(x), expected) and not torch.equal(clone.log_prob(x), expected)
    other = Circuit(circuit.graph, seed=9)
    assert not torch.equal(other.log_prob(x), expected)
    other.load_state_dict(circuit.state_dict())
    assert torch.equal(other.log_prob(x), expected)
    at = circuit.probabilities()
    other.load_probabilities_(at)
    torch.testing.assert_close(other.log_prob(x), expected)


def test_double_and_seeds() -> None:
    circuit, x = mixed()
    expected = circuit.log_prob(x)
    assert torch.equal(mixed()[0].log_prob(x), expected)
    circuit.reset(data=x, seed=3)
    assert torch.equal(circuit.log_prob(x), expected)
    double = circuit.double().log_prob(x)
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    circuit, x = mixed()
    circuit.double()
    names, parameters = zip(*circuit.named_parameters(), strict=True)

    def likelihood(*values: Tensor) -> Tensor:
        return torch.func.functional_call(circuit, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(likelihood, [p.detach().requires_grad_() for p in parameters])


def test_flows_are_parameters_times_gradients() -> None:
    """Invariant: flow of an edge = theta d log p / d theta, and flows of every unit's edges are its own flow."""
    circuit = Circuit(from_vtree(Vtree.right_linear(range(4)), [Categorical(3)] * 4, 3, outer=True), seed=1).double()
    x = torch.randint(0, 3, (10, 4))
    missing = torch.rand(10, 4) < 0.3
    flows, evidence = circuit.flows(x, missing), circuit.evidence(x, missing)
    weights = [w.detach().requires_grad_() for w in circuit.weights()]
    total = circuit.upward([layer(evidence) for layer in circuit.inputs], weights)[-1].sum()
    for flow, w, gradient in zip(flows.sums, weights, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(flow, w.detach() * gradient)
    torch.testing.assert_close(flows.sums[-1].sum(), torch.tensor(10.0, dtype=torch.float64))
    for seen, unseen in zip(flows.inputs, flows.unseen, strict=True):  # one unit's worth an observation in all
        found = seen.sum((1, 2)) + unseen.sum(1)
        assert found.allclose(torch.full((len(found),), 10.0, dtype=torch.float64))


def test_em_steps_never_lower_the_likelihood() -> None:
    circuit = Circuit(from_vtree(Vtree.random(5, seed=2), [Categorical(3)] * 5, 3), seed=1).double()
    x = torch.randint(0, 3, (40, 5)) * torch.randint(0, 2, (40, 1))
    missing = torch.rand(40, 5) < 0.2
    at, found = circuit.probabilities(), []
    for _ in range(12):
        flows = circuit.flows(x, missing, at=at)
        found.append(flows.log_prob.sum().item())
        circuit.em_update_(flows, at)
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(found))
    assert found[-1] > found[0] + 1


def test_compiled() -> None:
    circuit, x = mixed()
    torch.testing.assert_close(torch.compile(circuit, backend="eager", fullgraph=False)(x), circuit(x))
