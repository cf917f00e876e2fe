"""Marginals, conditionals and moments against sums over all states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import Categorical, Circuit, Gaussian, chow_liu, factorized_graph, hclt_graph, queries
from torch import Tensor

from tests.circuits import toy

CIRCUITS = toy.discrete()
JOINTS = {name: toy.joint(circuit) for name, circuit in CIRCUITS.items()}
EVIDENCE, MISSING, TARGET = 0, 1, 2


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def probability(name: str, x: Tensor, known: Tensor) -> Tensor:
    """Of each item's known values, by summing all states."""
    pairs = zip(x.tolist(), known.tolist(), strict=True)
    return torch.stack([toy.restricted(JOINTS[name], row, mask).sum() for row, mask in pairs])


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, Tensor, Tensor]:
    """A circuit, items (B, D) that it can produce, and what each variable of each is."""
    name = draw(st.sampled_from(sorted(CIRCUITS)))
    possible = toy.states(CIRCUITS[name])[JOINTS[name].flatten() > 0]
    rows = draw(st.lists(st.integers(0, len(possible) - 1), min_size=1, max_size=5))
    roles = st.lists(st.sampled_from([EVIDENCE, MISSING, TARGET]), min_size=4, max_size=4)
    return name, possible[rows], torch.tensor([draw(roles) for _ in rows])


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_toys_are_distributions(name: str) -> None:
    circuit = CIRCUITS[name]
    close(JOINTS[name].sum(), torch.ones((), dtype=torch.float64))
    close(circuit.log_prob(toy.states(circuit)).exp(), JOINTS[name].flatten())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(patterns())
def test_conditionals_of_any_pattern(case: tuple[str, Tensor, Tensor]) -> None:
    name, x, role = case
    got = CIRCUITS[name].conditional(x, role == MISSING, targets=role == TARGET)
    close(got.exp(), probability(name, x, role != MISSING) / probability(name, x, role == EVIDENCE))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(patterns())
def test_a_marginal_is_a_sum_over_the_other_variables(case: tuple[str, Tensor, Tensor]) -> None:
    name, x, role = case
    close(CIRCUITS[name].marginal(x, role == TARGET).exp(), probability(name, x, role == TARGET))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(patterns())
def test_all_marginals_leave_their_own_variable_out(case: tuple[str, Tensor, Tensor]) -> None:
    name, x, role = case
    circuit, p = CIRCUITS[name], JOINTS[name]
    got = circuit.marginals(x, role != EVIDENCE)
    assert got.shape == (len(x), 4, max(p.shape))
    expected = torch.zeros_like(got)
    for b, row in enumerate(x.tolist()):
        for v in range(4):
            known = [(r == EVIDENCE) and u != v for u, r in enumerate(role[b].tolist())]
            q = toy.restricted(p, row, known).sum([u for u in range(4) if u != v])
            expected[b, v, : len(q)] = q / q.sum()
    close(got, expected)


def test_normalized_where_pyjuice_21_is_not() -> None:
    """Every conditional sums to one over its targets, alone or together, whatever is missing."""
    circuit = CIRCUITS["dag1"]
    first = toy.states(circuit)[JOINTS["dag1"].argmax()]
    for targets in ([0], [1, 3], [0, 1, 2, 3]):
        values = torch.cartesian_prod(*[torch.arange(toy.sizes(circuit)[v]) for v in targets]).view(-1, len(targets))
        x = first.repeat(len(values), 1)
        x[:, targets] = values
        missing = torch.tensor([v == 2 and v not in targets for v in range(4)])
        close(circuit.conditional(x, missing, targets=targets).exp().sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize(("order", "expected"), [
    ((1, 0, 2, 3), [(0.38, 0.23, 0.39), (0.4913043478, 0.2347826087, 0.2739130435),
                    (0.7269911504, 0.1292035398, 0.1438053097), (0.3766153846, 0.2390769231, 0.3843076923)]),
    ((1, 2, 3, 0), [(0.38, 0.23, 0.39), (0.6369565217, 0.1652173913, 0.197826087),
                    (0.2373626374, 0.2010989011, 0.5615384615), (0.5666666667, 0.2222222222, 0.2111111111)]),
])  # fmt: skip
def test_the_worked_example(order: tuple[int, ...], expected: list[tuple[float, ...]]) -> None:
    """Along x = (0, 1, 2, 0): the conditional of each variable given those before it in the order."""
    circuit, x = toy.sheet_hclt(), torch.tensor([[0, 1, 2, 0]])
    chain = torch.zeros(1, dtype=torch.float64)
    for k, variable in enumerate(order):
        missing = torch.tensor([v in order[k:] for v in range(4)])
        got = circuit.marginals(x, missing, targets=[variable])[0, 0]
        torch.testing.assert_close(got, torch.tensor(expected[k], dtype=torch.float64), rtol=0, atol=6e-11)
        missing[variable] = False
        chain += circuit.conditional(x, missing, targets=[variable])
    close(chain, circuit.log_prob(x))
    torch.testing.assert_close(chain.exp(), torch.tensor([0.00612], dtype=torch.float64))


def test_targets_come_in_the_order_asked_for() -> None:
    circuit = CIRCUITS["vtree0"]
    x = torch.zeros(2, 4, dtype=torch.int64)
    everything = circuit.marginals(x, torch.ones(4, dtype=torch.bool))
    some = circuit.marginals(x, torch.ones(4, dtype=torch.bool), targets=[3, 1])  # of two values each
    close(some, everything[:, [3, 1], :2])
    assert torch.equal(circuit.marginals(x, torch.ones(4, dtype=torch.bool), torch.tensor([3, 1])), some)
    assert circuit.marginals(x, targets=[]).shape == (2, 0, 0)


def test_an_impossible_value_is_left_out_of_its_own_evidence() -> None:
    """x has probability zero, but not what the others tell about variable 0."""
    circuit = chow_liu(torch.tensor([[0, 0], [1, 1], [1, 1]]), pseudocount=0.0)
    x = torch.tensor([[0, 1]])
    assert circuit.log_prob(x).item() == -torch.inf
    assert circuit.marginals(x).tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert circuit.conditional(x, targets=[0]).item() == -torch.inf


def test_pieces_of_a_batch_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = CIRCUITS["dag2"]
    x = toy.states(circuit)[JOINTS["dag2"].flatten() > 0]
    whole, moments = circuit.marginals(x), circuit.moments(x)
    monkeypatch.setattr("probkernels.circuits._passes.CELLS", 3 * sum(circuit.graph.units))
    monkeypatch.setattr(queries, "CELLS", 3 * sum(circuit.graph.units))
    close(circuit.marginals(x), whole)
    close(circuit.moments(x).variance, moments.variance)
    close(circuit.covariance(), moment_matrix("dag2"))


def test_long_circuits_in_single_precision() -> None:
    """Log-likelihoods near -1000, whose rounding must not show in sums of probabilities."""
    graph = hclt_graph([(v - 1) // 3 for v in range(300)], [Categorical(12)] * 300, latents=4)
    single, double = toy.shaken(Circuit(graph)).float(), toy.shaken(Circuit(graph))
    x = double.sample(5, seed=0)
    assert (single.log_prob(x) < -500).all()
    missing = torch.arange(300) % 3 == 0
    p = single.marginals(x, missing)
    torch.testing.assert_close(p.sum(2), torch.ones(5, 300), rtol=0, atol=1e-6)
    torch.testing.assert_close(p.double(), double.marginals(x, missing), rtol=0, atol=1e-3)
    torch.testing.assert_close(single.moments(x, missing).mean, p @ torch.arange(12.0), rtol=0, atol=1e-3)
    drawn = single.sample(200, given=x[:1], missing=missing, seed=1).double().mean((0, 1))
    mean, variance = double.moments(x[:1], missing)
    assert ((drawn - mean[0]).abs() < 5 * (variance[0] / 200).sqrt())[missing].all()


# --- moments ---


def moment_matrix(name: str) -> Tensor:
    x, p = toy.states(CIRCUITS[name]).double(), JOINTS[name].flatten()
    apart = x - p @ x
    return (apart * p[:, None]).t() @ apart


@pytest.mark.parametrize("name", CIRCUITS)
def test_covariances(name: str) -> None:
    circuit = CIRCUITS[name]
    close(circuit.covariance(), moment_matrix(name))
    mean, variance = circuit.moments()
    close(mean, JOINTS[name].flatten() @ toy.states(circuit).double())
    close(variance, moment_matrix(name).diagonal())


def test_moments_given_evidence() -> None:
    circuit, p = CIRCUITS["dag3"], JOINTS["dag3"]
    x = toy.states(circuit)[p.argmax()][None]
    mean, variance = circuit.moments(x, torch.tensor([False, True, True, False]))
    q = circuit.marginals(x, torch.tensor([False, True, True, False]))
    values = torch.arange(q.shape[2]).double()
    close(mean, q @ values)
    close(variance, q @ values**2 - mean**2)


def integrated(circuit: Circuit, x: Tensor, variable: int, grid: Tensor) -> Tensor:
    """Density along ``grid`` in one variable, the others as in x (D,), normalized by the trapezoid rule; (n, 2)."""
    along = x.repeat(len(grid), 1)
    along[:, variable] = grid
    with torch.no_grad():
        density = toy.node_values(circuit, along)[-1][0]
    return density / torch.trapezoid(density, grid)


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_moments_by_integration(seed: int) -> None:
    """Variables 0 and 2 are continuous: leave-one-out moments of each given all others, and discrete given both."""
    circuit = toy.shaken(Circuit(toy.random_graph(seed, (0, 2, 0, 3))), seed, 0.5)
    x = torch.tensor([0.3, 1.0, -0.4, 2.0], dtype=torch.float64)
    mean, variance = circuit.moments(x[None])
    grid = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    for variable in (0, 2):
        density = integrated(circuit, x, variable, grid)
        expected = torch.trapezoid(density * grid, grid)
        close(mean[0, variable], expected)
        close(variance[0, variable], torch.trapezoid(density * (grid - expected) ** 2, grid))
    values = x.repeat(3, 1)
    values[:, 3] = torch.arange(3)
    with torch.no_grad():
        p = toy.node_values(circuit, values)[-1][0]
    close(circuit.marginals(x[None], targets=[3])[0, 0], p / p.sum())
    close(circuit.conditional(values, targets=[3]).exp(), p / p.sum())


def test_covariance_of_continuous_and_discrete_variables() -> None:
    circuit = toy.shaken(Circuit(toy.random_graph(5, (0, 3))), 5, 0.5)
    grid = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    with torch.no_grad():
        density = torch.stack([
            toy.node_values(circuit, torch.stack([grid, torch.full_like(grid, c)], 1))[-1][0] for c in range(3)
        ])  # fmt: skip
    values = torch.arange(3).double()
    mass, first = torch.trapezoid(density, grid), torch.trapezoid(density * grid, grid)
    close(mass.sum(), torch.ones((), dtype=torch.float64))
    close(circuit.covariance()[0, 1], first @ values - first.sum() * (mass @ values))


# --- what is refused, and edges ---


def test_gradients_of_a_conditional() -> None:
    circuit = toy.sheet_hclt()
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 2, 2]])
    circuit.conditional(x, targets=[0, 3]).sum().backward()
    for p in circuit.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["dag0", "chow_liu", "hclt"])
def test_empty_batches_and_rows_without_evidence(name: str) -> None:
    circuit = CIRCUITS[name]
    nothing, everything = torch.zeros(0, 4, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    assert circuit.marginal(nothing, [0]).shape == (0,)
    assert circuit.conditional(nothing, targets=[0]).shape == (0,)
    assert circuit.marginals(nothing).shape == (0, 4, 3)
    assert circuit.moments(nothing).mean.shape == (0, 4)
    x = torch.zeros(2, 4, dtype=torch.int64)
    close(circuit.moments(x, everything).mean, circuit.moments().mean.expand(2, 4))
    close(circuit.conditional(x, everything, targets=[]), torch.zeros(2, dtype=torch.float64))


def impossible() -> tuple[Circuit, Tensor]:
    """A circuit, and items of which the second's evidence in variables 1 and 2 cannot happen."""
    circuit = chow_liu(torch.tensor([[0, 0, 0], [1, 1, 1]]), pseudocount=0.0)
    return circuit, torch.tensor([[0, 0, 0], [0, 0, 1]])


def test_impossible_evidence_is_named() -> None:
    circuit, x = impossible()
    for ask in (
        lambda: circuit.conditional(x, targets=[0]),
        lambda: circuit.marginals(x, targets=[0]),
        lambda: circuit.moments(x),
    ):
        with pytest.raises(ValueError, match=r"positive probability, got probability zero at item 1\. Hint"):
            ask()
    assert circuit.marginal(x, [1, 2]).tolist() == [pytest.approx(-0.693147), -torch.inf]


@pytest.mark.parametrize(("targets", "error", "text"), [
    ([4], ValueError, "variables 0 .. 3, got 4"),
    ([-1], ValueError, "variables 0 .. 3, got -1"),
    ([1, 1], ValueError, "each variable once"),
    ([2], ValueError, "not missing, got variable 2 of item 0 in both"),
    ([True, False, True, False], TypeError, "list of variables or a bool mask"),
    (1, TypeError, "list of variables or a bool mask, got int 1"),
    ([0.5], TypeError, "list of variables"),
    (torch.ones(3, dtype=torch.bool), ValueError, r"shape \(4,\), got shape \(3,\)"),
])  # fmt: skip
def test_wrong_targets(targets: object, error: type[Exception], text: str) -> None:
    x, missing = torch.zeros(2, 4, dtype=torch.int64), torch.tensor([False, False, True, False])
    with pytest.raises(error, match=f"Circuit.conditional: argument 'targets': expected .*{text}"):
        CIRCUITS["dag0"].conditional(x, missing, targets=targets)


@pytest.mark.parametrize(("x", "missing", "error"), [
    (torch.zeros(2, 4), None, TypeError),
    ([[0, 0, 0, 0]], None, TypeError),
    (torch.zeros(2, 3, dtype=torch.int64), None, ValueError),
    (torch.zeros(4, dtype=torch.int64), None, ValueError),
    (torch.full((2, 4), 9), None, ValueError),
    (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), TypeError),
    (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bool), ValueError),
])  # fmt: skip
def test_wrong_observations(x: object, missing: Tensor | None, error: type[Exception]) -> None:
    circuit = CIRCUITS["dag0"]
    for ask in (
        lambda: circuit.conditional(x, missing, targets=[0]),
        lambda: circuit.marginals(x, missing),
        lambda: circuit.moments(x, missing),
        lambda: circuit.sample(given=x, missing=missing),
        lambda: circuit.mpe(x, missing),
    ):
        with pytest.raises(error, match=r"expected .*got"):
            ask()
    if missing is None:
        with pytest.raises(error, match=r"expected .*got"):
            circuit.marginal(x, [0])


def test_a_distribution_over_a_continuous_variable_is_refused() -> None:
    circuit = Circuit(factorized_graph([Gaussian()]))
    with pytest.raises(ValueError, match=r"discrete variables, got variable 0\. Hint: moments\(\)"):
        circuit.marginals(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="None where x is None"):
        circuit.moments(missing=torch.ones(1, dtype=torch.bool))
