"""Input layers: tables that sum to one at any scale, M-steps that never hurt, draws that follow the distribution."""

from __future__ import annotations

import itertools
import math

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
    Indicator,
    factorized_graph,
)
from probkernels.circuits.inputs import Evidence, GaussianInputs, Inputs, LogisticInputs, TableInputs
from torch import Tensor

GENERATOR = torch.Generator


def made(family: object, variables: int = 3, units: int = 2, seed: int = 0) -> Inputs:
    layer = family.make_layer(list(range(variables)), units)
    layer.reset(GENERATOR().manual_seed(seed), None)
    return layer.double()


def discrete(codes: Tensor) -> Evidence:
    missing = codes < 0
    return Evidence(codes.to(torch.int32), None, missing if missing.any() else None)


def real(values: Tensor, missing: Tensor | None = None) -> Evidence:
    return Evidence(torch.full(values.shape, -1, dtype=torch.int32), values, missing)


# --- values ---


@pytest.mark.parametrize("family", [Categorical(5), Bernoulli(), Indicator(4), DiscretizedLogistic(6)], ids=repr)
def test_tables_sum_to_one(family: Categorical) -> None:
    units = family.categories if isinstance(family, Indicator) else 2
    table = made(family, units=units).log_table()
    assert table.shape == (3, family.categories, units)
    torch.testing.assert_close(table.exp().sum(1), torch.ones(3, units, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(
    categories=st.sampled_from([1, 2, 3, 16, 256]),
    location=st.sampled_from([-1e30, -300.0, -0.5, 0.0, 0.5, 1.5, 100.25, 255.0, 1e5]),
    log_scale=st.sampled_from([-1e4, -200.0, -90.0, -20.0, -5.0, 0.0, 3.0, 20.0, 90.0, 200.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_logistic_tables_sum_to_one_at_extreme_scales(
    categories: int, location: float, log_scale: float, dtype: torch.dtype
) -> None:
    layer = LogisticInputs([0], 1, categories).to(dtype)
    layer.location.data.fill_(location)
    layer.log_scale.data.fill_(log_scale)
    table = layer.log_table()
    assert not table.isnan().any() and (table <= 1e-5).all()
    torch.testing.assert_close(table.exp().sum(), torch.ones((), dtype=dtype), rtol=1e-5, atol=1e-5)
    if categories == 1:
        return  # nothing depends on anything
    table.exp().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_logistic_bins_are_differences_of_its_distribution() -> None:
    layer = made(DiscretizedLogistic(7))
    edges = torch.arange(1, 7).double()[:, None] - 0.5
    below = torch.sigmoid((edges - layer.location[:, None]) / layer.log_scale.exp()[:, None])
    ends = torch.zeros(3, 1, 2, dtype=torch.float64)
    torch.testing.assert_close(layer.log_table().exp(), torch.cat([ends, below, ends + 1], 1).diff(dim=1))


def test_gaussians_are_those_of_torch() -> None:
    layer = made(Gaussian())
    x = torch.randn(3, 9, dtype=torch.float64)
    missing = torch.rand(3, 9) < 0.3
    normal = torch.distributions.Normal(layer.location[..., None], layer.log_scale.exp()[..., None])
    expected = normal.log_prob(x[:, None]).masked_fill(missing[:, None], 0)
    torch.testing.assert_close(layer(real(x.masked_fill(missing, math.nan), missing)), expected)
    best, value = layer.best()
    torch.testing.assert_close(value, layer(real(best)).diagonal(dim1=1, dim2=2))


def test_layers_take_their_own_variables() -> None:
    for variables in ([2, 0], [0, 1], [1, 1], [0, 1, 2]):
        layer = Categorical(4).make_layer(variables, 2)
        layer.reset(GENERATOR().manual_seed(0), None)
        codes = torch.tensor([[0, 3], [1, -1], [2, 2]])
        found = layer(discrete(codes))
        for row, variable in enumerate(variables):
            for item in range(2):
                code = int(codes[variable, item])
                expected = torch.zeros(2) if code < 0 else layer.log_table()[row, code]
                torch.testing.assert_close(found[row, :, item], expected)


@pytest.mark.parametrize("family", [Categorical(5), Bernoulli(), DiscretizedLogistic(6), Indicator(2)], ids=repr)
def test_moments_and_modes(family: Categorical) -> None:
    layer = made(family)
    table = layer.log_table().exp()
    values = torch.arange(family.categories, dtype=torch.float64)[:, None]
    torch.testing.assert_close(layer.mean(), (values * table).sum(1))
    torch.testing.assert_close(layer.variance(), ((values - layer.mean()[:, None]).square() * table).sum(1))
    best, value = layer.best()
    torch.testing.assert_close(value.exp(), table.amax(1))
    torch.testing.assert_close(table.gather(1, best.long()[:, None])[:, 0], value.exp())


# --- M-steps ---


@settings(max_examples=10, deadline=None)
@given(
    categories=st.sampled_from([2, 5, 64]),
    peak=st.floats(0, 1),
    step=st.sampled_from([0.1, 0.5, 1.0]),
    pseudocount=st.sampled_from([0.0, 0.1, 5.0]),
    log_scale=st.floats(-4, 5),
    seed=st.integers(0, 100),
)
def test_logistic_steps_never_lower_the_expected_likelihood(
    categories: int, peak: float, step: float, pseudocount: float, log_scale: float, seed: int
) -> None:
    layer = made(DiscretizedLogistic(categories), seed=seed)
    layer.log_scale.data.fill_(log_scale)
    flow = torch.rand(3, categories, 2, dtype=torch.float64, generator=GENERATOR().manual_seed(seed))
    flow[:, int(peak * (categories - 1))] += 5
    counts = flow + pseudocount / categories
    found = []
    for _ in range(3):
        found.append((counts * layer.log_table()).sum(1).detach())
        layer.em_update_(flow, step, pseudocount)
    if step == 1:  # smaller steps go part of the way to a better point, on a line that need not rise throughout
        assert all((after >= before - 1e-9).all() for before, after in itertools.pairwise(found))
    assert (found[-1] >= found[0] - 1e-9).all()


def test_logistic_steps_find_the_distribution() -> None:
    truth = made(DiscretizedLogistic(32), seed=4)
    truth.log_scale.data.fill_(1.0)
    table = truth.log_table().detach()
    layer = made(DiscretizedLogistic(32), seed=5)
    for _ in range(15):
        layer.em_update_(table.exp() * 1000, 1.0, 0.0)
    lost = (table.exp() * (table - layer.log_table())).sum(1)
    assert (lost < 1e-3).all()


@settings(max_examples=40, deadline=None)
@given(
    shift=st.sampled_from([0.0, -3.0, 1e4]),
    width=st.sampled_from([1e-3, 1.0, 1e4]),
    step=st.sampled_from([0.1, 0.5, 1.0]),
    pseudocount=st.sampled_from([0.0, 0.1, 5.0]),
    seed=st.integers(0, 100),
)
def test_gaussian_steps_never_lower_the_expected_likelihood(
    shift: float, width: float, step: float, pseudocount: float, seed: int
) -> None:
    generator = GENERATOR().manual_seed(seed)
    x = shift + width * torch.randn(3, 30, dtype=torch.float64, generator=generator)
    flow = torch.rand(3, 2, 30, dtype=torch.float64, generator=generator).pow(6)
    layer = GaussianInputs([0, 1, 2], 2, categories=0).double()
    layer.reset(generator, real(x))

    def quality() -> Tensor:  # the pseudocount: observations distributed as the whole data
        value = layer(real(x)).detach()
        return (flow * value).sum(2) + pseudocount * value.mean(2)

    found = []
    for _ in range(6):
        found.append(quality())
        layer.em_update_(layer.statistics(real(x), flow)[0], step, pseudocount)
    allowed = 1e-7 * found[0].abs()
    assert all((after >= before - allowed).all() for before, after in itertools.pairwise(found))
    if step == 1:
        total = flow.sum(2) + pseudocount
        mean = ((flow * x[:, None]).sum(2) + pseudocount * x.mean(1, keepdim=True)) / total
        torch.testing.assert_close(layer.mean(), mean, rtol=1e-6, atol=1e-6 * width)


def test_gaussians_without_flow_stay_and_never_collapse() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    layer = GaussianInputs([0], 2, categories=0).double()
    layer.reset(GENERATOR().manual_seed(0), real(x))
    before = layer.log_table().clone()
    flow = torch.tensor([[[0.0, 0, 0], [0, 5, 0]]], dtype=torch.float64)  # nothing, and one single value
    layer.em_update_(layer.statistics(real(x), flow)[0], 1.0, 0.0)
    torch.testing.assert_close(layer.log_table()[..., 0], before[..., 0])
    torch.testing.assert_close(layer.mean()[0, 1], x[0, 1])
    torch.testing.assert_close(layer.variance()[0, 1].sqrt(), 1e-3 * layer.width[0, 0])
    constant = GaussianInputs([0], 2, categories=0).double()
    constant.reset(GENERATOR().manual_seed(0), real(torch.ones_like(x)))
    assert constant(real(torch.ones_like(x))).isfinite().all()


def test_categorical_steps_are_counts_and_keep_what_is_missing() -> None:
    circuit = Circuit(factorized_graph([Categorical(3)])).double()
    x, missing = torch.tensor([[0], [2], [2], [1], [0]]), torch.tensor([[False], [False], [False], [True], [True]])
    at = circuit.probabilities()
    old = at.inputs[0].clone()
    circuit.em_update_(circuit.flows(x, missing), at, 1.0, 0.6)
    expected = torch.tensor([1.2, 0.2, 2.2], dtype=torch.float64).view(1, 3, 1) + 2 * old
    torch.testing.assert_close(at.inputs[0], expected / 5.6)


# --- draws ---


@pytest.mark.parametrize("family", [Categorical(4), Bernoulli(), DiscretizedLogistic(5), Indicator(2)], ids=repr)
def test_draws_have_the_tables_frequencies(family: Categorical) -> None:
    layer = made(family)
    assert isinstance(layer, TableInputs)
    n = 4000
    for row, unit in ((0, 0), (2, 1)):
        at = torch.full((n,), row), torch.full((n,), unit)
        draws = layer.sample(*at, GENERATOR().manual_seed(1))
        assert torch.equal(draws, layer.sample(*at, GENERATOR().manual_seed(1)))
        p = layer.log_table().exp()[row, :, unit]
        found = torch.bincount(draws.long(), minlength=family.categories).double() / n
        assert ((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()


def test_gaussian_draws_have_its_moments() -> None:
    layer = made(Gaussian())
    layer.log_scale.data.fill_(0.7)
    draws = layer.sample(torch.full((4000,), 1), torch.full((4000,), 1), GENERATOR().manual_seed(1))
    assert abs(draws.mean() - layer.mean()[1, 1]) < 5 * math.exp(0.7) / math.sqrt(4000)
    assert abs(draws.var() / layer.variance()[1, 1] - 1) < 5 * math.sqrt(2 / 4000)
