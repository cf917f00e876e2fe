"""Samples against exact probabilities, and completions against the best of all states."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from probkernels.circuits import EM, Categorical, Circuit, Gaussian, Input, Product, Sum, chow_liu, sampling
from probkernels.circuits.graph import Graph
from probkernels.circuits.inputs import draw
from torch import Tensor

from tests.circuits import toy

CIRCUITS = toy.discrete()
JOINTS = {name: toy.joint(circuit) for name, circuit in CIRCUITS.items()}


def index(x: Tensor, sizes: list[int]) -> Tensor:
    """The place of each x (n, D) among all states."""
    place = torch.zeros(len(x), dtype=torch.int64)
    for column, size in zip(x.t(), sizes, strict=True):
        place = place * size + column
    return place


def assert_drawn_from(p: Tensor, places: Tensor) -> None:
    """Pearson's statistic is within 5 standard deviations of what draws from p (n,) give; rare states are pooled."""
    count = torch.bincount(places, minlength=len(p)).double()
    assert (count[p == 0] == 0).all()
    expected = p * len(places)
    rare = expected < 10
    expected, count = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (expected, count))
    used = expected > 0
    statistic = ((count - expected)[used].square() / expected[used]).sum().item()
    freedom = max(int(used.sum()) - 1, 1)
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom) + 5


@pytest.mark.parametrize("name", CIRCUITS)
def test_samples_have_the_models_frequencies(name: str) -> None:
    circuit = CIRCUITS[name]
    x = circuit.sample(20000, seed=7)
    assert x.shape == (20000, 4)
    assert x.dtype is torch.int64
    assert_drawn_from(JOINTS[name].flatten(), index(x, toy.sizes(circuit)))


def test_the_check_sees_a_wrong_distribution() -> None:
    x = CIRCUITS["dag0"].sample(20000, seed=7)
    with pytest.raises(AssertionError):
        assert_drawn_from(JOINTS["dag0"].flatten().roll(1), index(x, toy.sizes(CIRCUITS["dag0"])))


@pytest.mark.parametrize("name", ["dag1", "dag3", "vtree0", "hclt", "chow_liu", "split"])
def test_conditional_samples(name: str) -> None:
    """Each item has its own evidence."""
    circuit, sizes = CIRCUITS[name], toy.sizes(CIRCUITS[name])
    likely = JOINTS[name].flatten().argsort(descending=True)[:3]
    x = toy.states(circuit)[likely]
    missing = torch.tensor([[True, False, True, False], [False, True, True, True], [True, True, True, True]])
    drawn = circuit.sample(6000, given=x, missing=missing, seed=1)
    assert drawn.shape == (6000, 3, 4)
    assert torch.equal(drawn[:, ~missing], x[~missing].expand(6000, -1))
    for b in range(3):
        known = (~missing[b]).tolist()
        p = torch.zeros_like(JOINTS[name])
        toy.restricted(p, x[b].tolist(), known).copy_(toy.restricted(JOINTS[name], x[b].tolist(), known))
        assert_drawn_from((p / p.sum()).flatten(), index(drawn[:, b], sizes))


def test_samples_of_continuous_variables_have_their_moments() -> None:
    circuit = toy.shaken(Circuit(toy.random_graph(1, (0, 2, 0, 3))), 1, 0.5)
    x = circuit.sample(40000, seed=3)
    assert x.dtype is torch.float64
    scale = circuit.moments().variance.sqrt()
    assert ((x.mean(0) - circuit.moments().mean).abs() < 5 * scale / 200).all()
    assert ((x.t().cov() - circuit.covariance()).abs() < 0.06 * torch.outer(scale, scale)).all()
    given = x[:2]
    missing = torch.tensor([True, False, False, True])
    drawn = circuit.sample(40000, given=given, missing=missing, seed=4)
    mean, variance = circuit.moments(given, missing)
    assert ((drawn.mean(0) - mean).abs() < 5 * variance.sqrt() / 200)[:, missing].all()
    assert torch.equal(drawn[:, :, ~missing], given[:, ~missing].expand(40000, -1, -1))


def test_seeds_threads_and_generators() -> None:
    circuit = CIRCUITS["dag2"]
    x, missing = toy.states(circuit)[JOINTS["dag2"].flatten() > 0], torch.tensor([True, False, True, True])
    one = circuit.sample(500, seed=5), circuit.sample(20, given=x, missing=missing, seed=5)
    torch.set_num_threads(2)
    try:
        two = circuit.sample(500, seed=5), circuit.sample(20, given=x, missing=missing, seed=5)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(circuit.sample(500, generator=generator), one[0])
    assert not torch.equal(circuit.sample(500, generator=generator), one[0])
    torch.manual_seed(5)
    assert torch.equal(circuit.sample(500), one[0])


def test_the_default_device_does_not_matter() -> None:
    circuit = CIRCUITS["hclt"]
    x, missing = torch.zeros(6, 4, dtype=torch.int64), torch.tensor([True, False, True, False])

    def results() -> list[Tensor]:
        fitted = copy.deepcopy(circuit)
        EM(fitted, batch_size=3).fit(x, missing, validation=x, epochs=2, progress=False)
        return [
            fitted.log_prob(x).detach(),
            circuit.conditional(x, targets=[1]).detach(),
            circuit.sample(5, seed=0),
            circuit.sample(5, given=x, missing=missing, seed=0),
            circuit.mpe(x, missing)[0],
        ]

    expected = results()
    with torch.device("meta"):  # stands for a GPU; the circuit and the data are on the CPU
        found = results()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_small_pieces_are_drawn_from_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = CIRCUITS["dag0"]
    for place in ("sampling", "inputs", "_passes"):
        monkeypatch.setattr(f"probkernels.circuits.{place}.CELLS", 100 * sum(circuit.graph.units))
    x = toy.states(circuit)[JOINTS["dag0"].flatten() > 0].repeat(4, 1)
    drawn = circuit.sample(40, given=x, missing=torch.ones(4, dtype=torch.bool), seed=2)
    assert_drawn_from(JOINTS["dag0"].flatten(), index(drawn.flatten(0, 1), toy.sizes(circuit)))


def test_draws_never_take_what_has_no_weight() -> None:
    weights = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.0, 0.5]]).repeat(5000, 1)
    taken = draw(weights, None).view(5000, 2)
    assert (taken[:, 0] == 2).all()
    assert set(taken[:, 1].tolist()) == {0, 3}
    assert abs((taken[:, 1] == 0).double().mean().item() - 0.5) < 0.04


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_what_is_given_keeps_its_dtype(dtype: torch.dtype) -> None:
    circuit = CIRCUITS["hclt"]
    x, missing = torch.zeros(2, 4, dtype=dtype), torch.tensor([True, False, True, False])
    assert circuit.sample(3, given=x, missing=missing, seed=0).dtype is dtype
    assert circuit.mpe(x, missing)[0].dtype is dtype
    assert not x.any()


@pytest.mark.parametrize(
    ("dtype", "categories"),
    [(torch.bool, 3), (torch.int8, 129), (torch.uint8, 257), (torch.bfloat16, 258), (torch.float16, 2050)],
)
def test_a_dtype_that_cannot_hold_the_categories_is_refused(dtype: torch.dtype, categories: int) -> None:
    def circuit(categories: int) -> Circuit:
        known = Gaussian() if dtype.is_floating_point else Categorical(categories)
        return Circuit(Graph([Input(0, 1, known), Input(1, 1, Categorical(categories)), Product((0, 1))]))

    x, missing = torch.zeros(2, 2, dtype=dtype), torch.tensor([False, True])
    expected = f"expected a dtype that holds 0 .. {categories - 1} of variable 1, got {dtype}"
    with pytest.raises(TypeError, match=f"Circuit.sample: argument 'given': {expected}"):
        circuit(categories).sample(2, given=x, missing=missing)
    with pytest.raises(TypeError, match=f"Circuit.mpe: argument 'x': {expected}"):
        circuit(categories).mpe(x, missing.expand(2, 2))
    assert circuit(categories).sample(2, given=x).dtype is dtype  # draws nothing
    assert circuit(categories).mpe(x, missing & False)[0].dtype is dtype
    fits = circuit(categories - 1)
    wide = torch.float64 if dtype.is_floating_point else torch.int64
    drawn = fits.sample(500, given=x, missing=missing, seed=0)
    assert torch.equal(drawn.to(wide), fits.sample(500, given=x.to(wide), missing=missing, seed=0))


def test_what_stands_at_missing_values_does_not_matter() -> None:
    circuit = toy.shaken(Circuit(toy.random_graph(1, (0, 2, 0, 3))), 1, 0.5)
    x, missing = circuit.sample(3, seed=0), torch.tensor([True, False, False, True])
    unknown = x.masked_fill(missing, math.nan)
    assert torch.equal(circuit.mpe(unknown, missing)[0], circuit.mpe(x, missing)[0])
    drawn = circuit.sample(2, given=unknown, missing=missing, seed=0)
    assert torch.equal(drawn, circuit.sample(2, given=x, missing=missing, seed=0))
    assert drawn.isfinite().all()
    assert torch.equal(circuit.moments(unknown, missing).mean, circuit.moments(x, missing).mean)
    assert torch.equal(circuit.conditional(unknown, missing, targets=[1]), circuit.conditional(x, missing, targets=[1]))


def test_nothing_to_draw() -> None:
    circuit = CIRCUITS["hclt"]
    x = torch.zeros(2, 4, dtype=torch.int64)
    assert circuit.sample(0, seed=0).shape == (0, 4)
    assert circuit.sample(0, given=x).shape == (0, 2, 4)
    assert circuit.sample(3, given=x[:0]).shape == (3, 0, 4)
    assert torch.equal(circuit.sample(3, given=x), x.expand(3, 2, 4))
    assert circuit.mpe(x[:0])[0].shape == (0, 4)
    assert circuit.mpe(x[:0])[1].shape == (0,)


def test_wrong_arguments() -> None:
    circuit = CIRCUITS["dag0"]
    for n, error, wanted in (
        (-1, ValueError, "a number >= 0"),
        (1.5, TypeError, "a whole"),
        (True, TypeError, "a whole"),
    ):
        with pytest.raises(error, match=f"Circuit.sample: argument 'n': expected {wanted}"):
            circuit.sample(n)
    with pytest.raises(ValueError, match="expected a seed or a generator, got both"):
        circuit.sample(1, seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="argument 'missing': expected None where nothing is given"):
        circuit.sample(1, missing=torch.ones(4, dtype=torch.bool))


def test_impossible_evidence_is_named() -> None:
    circuit = chow_liu(torch.tensor([[0, 0, 0], [1, 1, 1]]), pseudocount=0.0)
    x, missing = torch.tensor([[0, 0, 0], [0, 0, 1]]), torch.tensor([True, False, False])
    with pytest.raises(ValueError, match=r"Circuit.sample: .* got probability zero at item 1\."):
        circuit.sample(2, given=x, missing=missing)
    with pytest.raises(ValueError, match=r"Circuit.mpe: .* got probability zero at item 1\."):
        circuit.mpe(x, missing)


# --- completions ---


@pytest.mark.parametrize("name", ["chow_liu", "split"])
def test_completions_of_deterministic_circuits_are_the_best_of_all(name: str) -> None:
    circuit, p = CIRCUITS[name], JOINTS[name]
    assert circuit.is_deterministic
    for known in itertools.product([True, False], repeat=4):
        x = toy.states(circuit)[p.flatten() > 0]
        completed, log_value = circuit.mpe(x, ~torch.tensor(known))
        best = torch.stack([toy.restricted(p, row, known).max() for row in x.tolist()])
        torch.testing.assert_close(log_value, best.log())
        torch.testing.assert_close(circuit.log_prob(completed), log_value)
        assert torch.equal(completed[:, torch.tensor(known)], x[:, torch.tensor(known)])


def test_completions_elsewhere_are_the_best_together_with_the_latent_states() -> None:
    """All states x and latents (z1, z2) of the worked example."""
    circuit = toy.sheet_hclt()
    assert not circuit.is_deterministic
    prior, theta = (0.6, 0.4), ((0.9, 0.1), (0.25, 0.75))
    leaf = circuit.inputs[0].log_table().exp()[circuit.inputs[0].variables.argsort()].transpose(1, 2).detach()
    table = torch.stack([
        prior[a] * theta[a][b] * torch.einsum("i,j,k,l->ijkl", leaf[0, a], leaf[1, a], leaf[2, b], leaf[3, b])
        for a in range(2) for b in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(table.sum(0), toy.joint(circuit))
    x = toy.states(circuit)
    for known in itertools.product([True, False], repeat=4):
        completed, log_value = circuit.mpe(x, ~torch.tensor(known))
        best = [max(toy.restricted(t, row, known).max() for t in table) for row in x.tolist()]
        torch.testing.assert_close(log_value.exp(), torch.stack(best))
        at = table.flatten(1)[:, index(completed, [3] * 4)]
        torch.testing.assert_close(at.max(0).values, torch.stack(best))
        assert (circuit.log_prob(completed) >= log_value - 1e-12).all()


@pytest.mark.parametrize("name", ["dag0", "dag1", "vtree1"])
def test_completions_in_pieces_equal_those_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = CIRCUITS[name]
    x, missing = toy.states(circuit)[JOINTS[name].flatten() > 0], torch.tensor([True, False, True, False])
    completed, log_value = circuit.mpe(x, missing)
    for place in ("_passes", "sampling"):
        monkeypatch.setattr(f"probkernels.circuits.{place}.CELLS", 2 * sum(circuit.graph.units))
    again = circuit.mpe(x, missing)
    assert torch.equal(again[0], completed)
    assert torch.equal(again[1], log_value)


def test_the_mode_of_a_gaussian_mixture_component() -> None:
    graph = Graph([Input(0, 2, Gaussian()), Input(1, 2, Gaussian()), Product((0, 1)), Sum((2,), 1)])
    circuit = Circuit(graph).double()
    (layer,) = circuit.inputs
    layer.location.data.copy_(torch.tensor([[-1.0, 2.0], [3.0, -3.0]]))
    layer.log_scale.data.copy_(torch.tensor([[0.0, -1.0], [0.0, 0.0]]))
    circuit.sums[0].data.copy_(torch.tensor([[[0.6, 0.4]]]).log())
    x = torch.tensor([[0.0, 2.5], [0.0, 0.0]], dtype=torch.float64)
    completed, log_value = circuit.mpe(x, torch.tensor([[True, False], [True, True]]))
    assert completed.tolist() == [[-1.0, 2.5], [2.0, -3.0]]
    densities = 0.6 * math.exp(-0.125) / (2 * math.pi), 0.4 * math.e / (2 * math.pi)
    torch.testing.assert_close(log_value.exp(), torch.tensor(densities, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_walk_reaches_every_variable_once() -> None:
    circuit = CIRCUITS["dag2"]
    weights, walks = circuit.weights(), torch.zeros(50, dtype=torch.int64)
    reached = sampling.descend(circuit, weights, None, walks, lambda w, _: draw(w.detach(), None))
    visits = torch.zeros(4, 50, dtype=torch.int64)
    for layer, units in zip(circuit.inputs, reached, strict=True):
        visits.index_add_(0, layer.variables, (units >= 0).long())
        assert (units < layer.units).all()
    assert (visits == 1).all()
