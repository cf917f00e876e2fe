"""Sequential Bayes: closed forms against figures of another program, filtering against closed forms, bad input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probkernels.bnn import (
    BayesianLinearRegression,
    DensityPrior,
    GaussianMean,
    filter_posterior,
    fit_gaussian_mixture,
    fit_real_nvp,
)
from probkernels.bnn.sequential import Density, LogDensity
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

DOUBLE = torch.float64
Y1 = torch.tensor([-1.1, -0.9, -1.0, -1.2, -0.8], dtype=DOUBLE)
X1 = torch.tensor([[1, -1], [1, -0.5], [1, -0.25]], dtype=DOUBLE)
X2 = torch.tensor([[1, 0.25], [1, 0.5], [1, 1]], dtype=DOUBLE)
V1, V2 = torch.tensor([1, 0.4, 0.1], dtype=DOUBLE), torch.tensor([0.1, 0.5, 1.1], dtype=DOUBLE)


def near(found: Tensor | float, expected: object, tolerance: float = 5e-11) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=tolerance)


def unit_mean() -> GaussianMean:
    return GaussianMean(torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE), 0.25)


def unit_line() -> BayesianLinearRegression:
    return BayesianLinearRegression(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), 100.0)


def test_a_mean_moves_between_two_modes_with_less_variance() -> None:
    first = unit_mean().update(Y1)
    near(first.mean, -0.9523809524)
    near(first.variance, 0.0476190476)
    both = first.update(-Y1)
    near(both.mean, 0.0)
    near(both.variance, 0.0243902439)
    near(first.log_predictive(Y1).mean(), -0.3503775700)
    near(both.log_predictive(Y1).mean(), -2.1310032308)
    for other in (unit_mean().update(torch.cat([Y1, -Y1])), unit_mean().update(-Y1).update(Y1)):
        near(other.mean - both.mean, 0.0, 1e-12)
        near(other.variance - both.variance, 0.0, 1e-12)
    assert first.update(Y1[:0]) == first


@pytest.mark.parametrize(("counts", "mean"), [((5, 5), 0.0), ((50, 5), -0.8144796380), ((1000, 10), -0.9799554566)])
def test_the_big_task_wins(counts: tuple[int, int], mean: float) -> None:
    tasks = [torch.full((n,), value, dtype=DOUBLE) for n, value in zip(counts, (-1.0, 1.0), strict=True)]
    near(unit_mean().update(tasks[0]).update(tasks[1]).mean, mean)


def test_linear_regression_forgets_the_first_task() -> None:
    def rmse(law: BayesianLinearRegression, x: Tensor, y: Tensor) -> Tensor:
        return (law.predict(x)[0] - y).square().mean().sqrt()

    first = unit_line().update(X1, V1)
    both = first.update(X2, V2)
    near(first.mean, [-0.17424923, -1.15685153], 5e-9)
    near(both.mean, [0.53244592, 0.05692600], 5e-9)
    batch = unit_line().update(torch.cat([X1, X2]), torch.cat([V1, V2]))
    torch.testing.assert_close(batch.mean, both.mean, rtol=1e-12, atol=1e-12)
    near(rmse(first, X1, V1), 0.01346643, 1e-8)
    near(rmse(both, X1, V1), 0.39191627, 1e-8)
    near(rmse(both, X2, V2), 0.39326482, 1e-8)


def test_predictive_of_a_line_is_a_ratio_of_marginal_likelihoods() -> None:
    def marginal(x: Tensor, y: Tensor) -> Tensor:
        covariance = 0.01 * torch.eye(len(x), dtype=DOUBLE) + x @ x.T
        return MultivariateNormal(torch.zeros(len(x), dtype=DOUBLE), covariance).log_prob(y)

    found = unit_line().update(X1, V1).log_predictive(X2[:1], V2[:1])[0]
    ratio = marginal(torch.cat([X1, X2[:1]]), torch.cat([V1, V2[:1]])) - marginal(X1, V1)
    torch.testing.assert_close(found, ratio)


def on_grid(log_density: LogDensity, start: Tensor) -> Tensor:
    """4,000 samples of a law of one parameter."""
    w = torch.linspace(-3, 3, 4001, dtype=DOUBLE)[:, None]
    chosen = log_density(w).softmax(0).multinomial(4000, True, generator=torch.Generator().manual_seed(0))
    return w[chosen]


def one_dimensional(y: Tensor) -> LogDensity:
    return lambda w: -2 * (y - w).square().sum(1)


def test_filtering_of_a_mean_is_the_closed_form() -> None:
    prior = Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1)
    tasks = [one_dimensional(Y1), one_dimensional(-Y1), one_dimensional(Y1 + 0.5)]
    start = torch.zeros(2, 1, dtype=DOUBLE)
    found = filter_posterior(tasks, prior, on_grid, lambda w: fit_gaussian_mixture(w, 1), start=start)
    law = unit_mean()
    for after, y in zip(found, (Y1, -Y1, Y1 + 0.5), strict=True):
        law = law.update(y)
        near(after.samples.mean() - law.mean, 0.0, 0.02)
        assert after.samples.var().item() == pytest.approx(law.variance.item(), rel=0.1)
    more = filter_posterior(tasks[2:], found[1].density, on_grid, lambda w: fit_gaussian_mixture(w, 1), start=start)
    torch.testing.assert_close(more[0].samples, found[2].samples)


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_filtering_of_a_line_with_either_density(kind: str) -> None:
    """The sampler draws from a fine grid, of any log-density."""
    torch.manual_seed(0)
    axis = torch.linspace(-2.5, 2.5, 126, dtype=DOUBLE)
    grid = torch.cartesian_prod(axis, axis)

    def on_plane(log_density: LogDensity, start: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        chosen = log_density(grid).softmax(0).multinomial(3000, True, generator=generator)
        return grid[chosen] + 0.04 * (torch.rand(3000, 2, generator=generator, dtype=DOUBLE) - 0.5)

    def likelihood(x: Tensor, y: Tensor) -> LogDensity:
        return lambda w: -2 * (y - w @ x.mT).square().sum(1)

    prior = Independent(Normal(torch.zeros(2, dtype=DOUBLE), 1.0), 1)

    def fit(w: Tensor) -> Density:
        generator = torch.Generator().manual_seed(0)
        if kind == "mixture":
            return fit_gaussian_mixture(w, (1, 2), restarts=1, generator=generator)
        return fit_real_nvp(w, hidden=8, epochs=8, batch=128, generator=generator)

    tasks = [likelihood(X1, V1), likelihood(X2, V2)]
    found = filter_posterior(tasks, prior, on_plane, fit, start=torch.zeros(3, 2, dtype=DOUBLE))
    law = BayesianLinearRegression(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), 4.0)
    both = law.update(X1, V1).update(X2, V2)
    torch.testing.assert_close(found[1].samples.mean(0), both.mean, rtol=0, atol=0.02 if kind == "mixture" else 0.06)
    covariance = both.precision.inverse()
    torch.testing.assert_close(found[1].samples.T.cov(), covariance, rtol=0, atol=0.01 if kind == "mixture" else 0.03)


def test_all_chains_count_and_start_apart() -> None:
    starts: list[Tensor] = []

    def sampler(log_density: LogDensity, start: Tensor) -> Tensor:
        starts.append(start)
        return torch.randn(5, 20, 3, generator=torch.Generator().manual_seed(len(starts)))

    fitted: list[Tensor] = []

    def density(samples: Tensor) -> Independent:
        fitted.append(samples)
        return Independent(Normal(torch.zeros(3), 1.0), 1)

    prior = Independent(Normal(torch.zeros(3), 1.0), 1)
    found = filter_posterior([lambda w: w.sum(1)] * 2, prior, sampler, density, start=torch.zeros(4, 3))
    assert [tuple(samples.shape) for samples in fitted] == [(100, 3)] * 2
    assert starts[1].shape == (4, 3) and len(starts[1].unique(dim=0)) == 4
    assert all((row == found[0].samples).all(1).any() for row in starts[1])
    many = filter_posterior(
        [lambda w: w.sum(1)] * 2, prior, lambda *_: torch.ones(1, 3), density, start=torch.zeros(4, 3)
    )
    assert len(many) == 2 and starts[1].shape == (4, 3)


def test_a_density_is_a_prior_of_a_network() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1, bias=False))
    samples = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9.0)
    law = fit_gaussian_mixture(samples, 1)
    prior = DensityPrior(net, law)
    params = prior.sample(6, torch.Generator().manual_seed(1))
    flat = law.sample(6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cat([p.flatten(1) for p in params.values()], 1), flat)
    assert [tuple(p.shape) for p in params.values()] == [(6, 2, 2), (6, 2), (6, 1, 2)]
    torch.testing.assert_close(prior.log_prob(dict(reversed(params.items()))), law.log_prob(flat))
    assert prior.sample_functions(torch.zeros(3, 2), 4).shape == (4, 3, 1)
    assert list(prior.parameters()) == []
    with pytest.raises(ValueError, match="'density': expected a law of the module's 3 parameters"):
        DensityPrior(torch.nn.Linear(2, 1), law)
    with pytest.raises(TypeError, match="'density': expected an object with log_prob"):
        DensityPrior(net, samples)  # type: ignore[arg-type]


def run(**options: object) -> object:
    given: dict[str, object] = {
        "log_likelihoods": [lambda w: -w.square().sum(1)], "prior": Independent(Normal(torch.zeros(2), 1.0), 1),
        "sampler": lambda log_density, start: torch.randn(50, 2), "start": torch.zeros(3, 2),
    }  # fmt: skip
    return filter_posterior(**(given | options))  # type: ignore[arg-type]


BAD: list[tuple[type[Exception], str, Callable[[], object]]] = [
    (ValueError, r"'log_likelihoods\[0\]': expected shape \(3,\) for parameters \(3, 2\), got shape \(3, 2\)",
     lambda: run(log_likelihoods=[lambda w: -w.square()])),
    (ValueError, r"'log_likelihoods\[0\]': expected finite numbers, got nan at \[0\]",
     lambda: run(log_likelihoods=[lambda w: w.sum(1) * torch.nan])),
    (ValueError, r"'prior': expected shape \(3,\) for parameters", lambda: run(prior=Normal(torch.zeros(2), 1.0))),
    (TypeError, "'prior': expected an object with log_prob", lambda: run(prior=0)),
    (ValueError, "'log_likelihoods': expected a sequence of functions", lambda: run(log_likelihoods=[])),
    (ValueError, r"'start': expected where each chain starts", lambda: run(start=torch.zeros(2))),
    (ValueError, r"'sampler\(log_likelihoods\[0\]\)': expected finite numbers",
     lambda: run(sampler=lambda f, w: torch.full((9, 2), torch.inf))),
    (ValueError, r"expected samples of shape \(S, 2\), got shape \(9, 3\)",
     lambda: run(sampler=lambda f, w: torch.zeros(9, 3))),
    (ValueError, "samples that vary", lambda: run(sampler=lambda f, w: torch.zeros(9, 2))),
    (TypeError, "'density': expected a function that returns a law", lambda: run(density=lambda w: None)),
    (ValueError, "'variance': expected positive numbers", lambda: GaussianMean(torch.zeros(()), torch.zeros(()), 1.0)),
    (ValueError, r"'y': expected shape \(n,\)", lambda: unit_mean().update(torch.zeros(2, 1, dtype=DOUBLE))),
    (ValueError, "'y': expected finite numbers", lambda: unit_mean().update(Y1 * torch.nan)),
    (ValueError, "'precision': expected a symmetric positive definite",
     lambda: BayesianLinearRegression(torch.zeros(2), -torch.eye(2), 1.0)),
    (ValueError, r"'x': expected shape \(n, 2\)", lambda: unit_line().update(X1[:, :1], V1)),
    (ValueError, r"'y': expected shape \(3,\)", lambda: unit_line().update(X1, V1[:1])),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text", "call"), BAD)
def test_bad_input_is_named(error: type[Exception], text: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=text):
        call()
