"""Gaussian-process and ridge priors: exact predictive distributions, moments, hyperparameters, errors."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from probkernels.amortized import GPPrior, RidgePrior, TaskSampler
from probkernels.kernel_methods import RBF, Matern
from torch import Tensor
from torch.distributions import Gamma, Normal, Uniform

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
X, Y = torch.tensor([[[0.1], [0.4], [0.9]]], **DOUBLE), torch.tensor([[0.5, -0.2, 0.8]], **DOUBLE)
QUERY = torch.tensor([[[0.25], [0.6], [1.0]]], **DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("noise", "mean", "variance"),
    [
        (1e-4, [0.05072426, -0.09204705, 1.13996835], [0.00084002, 0.00324409, 0.00616005]),
        (1e-2, [0.07983591, 0.00258663, 1.03541587], [0.01643091, 0.02320468, 0.03107252]),
    ],
)
def test_exact_predictive_of_a_gaussian_process(noise: float, mean: list[float], variance: list[float]) -> None:
    for kernel in ("rbf", RBF(0.6)):
        found = GPPrior(kernel, noise=noise).exact_predictive(X, Y, QUERY)
        torch.testing.assert_close(found.mean[0], torch.tensor(mean, **DOUBLE), rtol=0, atol=6e-9)
        torch.testing.assert_close(found.variance[0], torch.tensor(variance, **DOUBLE), rtol=0, atol=6e-9)


def test_exact_predictive_of_linear_functions() -> None:
    x = torch.tensor([[[1.0, 0.5], [0.2, 0.9], [0.7, 0.1]]], **DOUBLE)
    y, query = torch.tensor([[0.2, -0.1, 0.15]], **DOUBLE), torch.tensor([[[0.5, 0.5]]], **DOUBLE)
    found = RidgePrior(2).exact_predictive(x, y, query)
    assert found.mean.item() == pytest.approx(0.0449985025, abs=1e-10)
    assert found.variance.item() == pytest.approx(0.0116578959, abs=1e-10)


def test_no_context_gives_the_prior() -> None:
    found = GPPrior(variance=2.0, noise=0.5).exact_predictive(X[:, :0], Y[:, :0], QUERY)
    assert (found.mean == 0).all() and found.variance.allclose(torch.tensor(2.5, **DOUBLE))
    x, y = GPPrior(features=2).sample(3, 0)
    assert x.shape == (3, 0, 2) and y.shape == (3, 0)


def test_likelihood_of_the_next_point_is_that_of_the_sheet() -> None:
    """The published figures are means over 1000 data sets; so is the tolerance."""
    x, y = GPPrior(lengthscale=0.2, noise=0.01, dtype=torch.float64).sample(1500, 30, seeded())
    prior = GPPrior(lengthscale=0.2, noise=0.01)
    for n, expected in ((0, 1.420), (1, 1.084), (2, 0.765), (5, 0.089), (10, -0.370), (29, -0.675)):
        law = prior.exact_predictive(x[:, :n], y[:, :n], x[:, -1:])
        assert -law.log_prob(y[:, -1:]).mean().item() == pytest.approx(expected, abs=0.12)


def calibrated(law: Normal, y: Tensor) -> None:
    z = (y - law.mean) / law.stddev
    count = z.shape[0]  # queries of a data set depend on each other
    assert abs(z.mean().item()) < 5 / math.sqrt(count)
    assert z.square().mean().item() == pytest.approx(1.0, abs=8 / math.sqrt(count))


@pytest.mark.parametrize("kernel", ["rbf", "matern", "periodic"])
def test_families_of_neural_processes_are_predicted_by_their_hyperparameters(kernel: str) -> None:
    prior = GPPrior.neural_process(kernel, dtype=torch.float64)
    generator = seeded()
    hyper = prior.hyperparameters(2000, generator)
    x, y = prior.sample_given(hyper, 2000, 12, generator)
    assert x.min() >= -2 and x.max() <= 2 and x.std().item() == pytest.approx(4 / math.sqrt(12), abs=0.02)
    assert y.square().mean().item() == pytest.approx(0.37 + 4e-4, abs=0.03)
    assert hyper["lengthscale"].min() >= 0.1 and hyper["lengthscale"].max() <= 0.6
    assert len(hyper["variance"].unique()) == 2000
    calibrated(prior.exact_predictive(x[:, :10], y[:, :10], x[:, 10:], hyper), y[:, 10:])


def test_ceiling_of_neural_processes() -> None:
    """1.501 nats a target point, of the exact predictive with the true hyperparameters (standard error .014 there)."""
    prior, generator = GPPrior.neural_process("rbf", dtype=torch.float64), seeded()
    sizes = TaskSampler(prior)
    found = []
    for _ in range(150):
        n, m = sizes.sizes(generator)
        hyper = prior.hyperparameters(8, generator)
        x, y = prior.sample_given(hyper, 8, n + m, generator)
        found.append(prior.exact_predictive(x[:, :n], y[:, :n], x[:, n:], hyper).log_prob(y[:, n:]).mean())
    assert torch.stack(found).mean().item() == pytest.approx(1.501, abs=0.15)


def test_hierarchical_prior_draws_for_each_data_set() -> None:
    prior = GPPrior.hierarchical(3, noise=Gamma(torch.tensor(1.1, **DOUBLE), 0.05), dtype=torch.float64)
    generator = seeded()
    hyper = prior.hyperparameters(4000, generator)
    assert hyper["lengthscale"].shape == (4000, 3) and len(hyper["noise"].unique()) == 4000
    for name, shape, rate in (("lengthscale", 3, 6), ("variance", 2, 0.15), ("noise", 1.1, 0.05)):
        assert hyper[name].mean().item() == pytest.approx(shape / rate, rel=0.06)
        assert hyper[name].var().item() == pytest.approx(shape / rate**2, rel=0.15)
    some = {name: value[:800] for name, value in hyper.items()}
    x, y = prior.sample_given(some, 800, 8, generator)
    calibrated(prior.exact_predictive(x[:, :6], y[:, :6], x[:, 6:], some), y[:, 6:])
    x, y = GPPrior.hierarchical(2).sample(20, 10, generator)
    assert y.isfinite().all() and y.dtype == torch.float32


def test_covariance_of_samples_is_that_of_the_kernel() -> None:
    prior = GPPrior(RBF(0.3, 1.5) + Matern(0.5), noise=0.2, dtype=torch.float64)
    x, y = prior.sample(2000, 2, seeded())
    with torch.no_grad():
        expected = (RBF(0.3, 1.5) + Matern(0.5))(x) + 0.2 * torch.eye(2)
    products = y[:, :, None] * y[:, None]
    assert (products - expected).mean(0).abs().max() < 0.3
    scales = torch.tensor([0.1, 100.0])  # the second input hardly counts
    x, y = GPPrior(lengthscale=scales, features=2, noise=0.0, dtype=torch.float64).sample(500, 3, seeded())
    law = GPPrior(lengthscale=0.1, noise=1e-3).exact_predictive(x[:, :2, :1], y[:, :2], x[:, 2:, :1])
    calibrated(law, y[:, 2:])


def test_student_noise_comes_on_top() -> None:
    plain, noisy = GPPrior(), GPPrior(t_noise=0.15)
    (x, y), (x2, y2) = plain.sample(2000, 4, seeded()), noisy.sample(2000, 4, seeded())
    assert torch.equal(x, x2)
    away = (y2 - y).abs().flatten()
    # U * |T|: the median of many draws; tails of t with 2.1 degrees of freedom reach far
    assert away.median().item() == pytest.approx(0.15 * 0.321, rel=0.1) and away.max() > 1.0


def test_ridge_moments_and_predictions() -> None:
    x, y = RidgePrior(dtype=torch.float64).sample(4000, 8, seeded())
    assert y.square().mean().item() == pytest.approx(0.01 * 5 / 3 + 0.01, rel=0.08)
    calibrated(RidgePrior().exact_predictive(x[:, :6], y[:, :6], x[:, 6:]), y[:, 6:])


@pytest.mark.parametrize(
    "prior",
    [
        GPPrior(),
        GPPrior.hierarchical(2),
        GPPrior.neural_process(t_noise=0.1),
        GPPrior(RBF(0.3), noise=Gamma(2.0, 20.0)),
    ],
)
def test_a_generator_decides_all_draws(prior: GPPrior) -> None:
    prior = pickle.loads(pickle.dumps(prior))
    state = torch.get_rng_state()
    one, other = prior.sample(4, 5, seeded(3)), prior.sample(4, 5, seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one[1], prior.sample(4, 5, seeded(4))[1])


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "'kernel'.*did you mean 'matern'", lambda: GPPrior("matérn")),
        (TypeError, "'kernel'", lambda: GPPrior(3)),
        (ValueError, "'variance': expected a positive number, got -1.0", lambda: GPPrior(variance=-1.0)),
        (ValueError, "'noise'", lambda: GPPrior(noise=-1e-4)),
        (
            ValueError,
            "'lengthscale': expected.*or shape \\(2,\\)",
            lambda: GPPrior(lengthscale=torch.ones(3), features=2),
        ),
        (ValueError, "'lengthscale'.*0.0 at \\[1\\]", lambda: GPPrior(lengthscale=torch.tensor([1.0, 0]), features=2)),
        (ValueError, "'high'", lambda: GPPrior(low=1.0)),
        (ValueError, "'t_noise'", lambda: GPPrior(t_noise=-0.1)),
        (ValueError, "'variance': expected finite numbers > 0", lambda: GPPrior(variance=Uniform(-2, -1)).sample(2, 3)),
        (ValueError, "'hyperparameters'.*sample_given", lambda: GPPrior.hierarchical(1).exact_predictive(X, Y, QUERY)),
        (ValueError, "'t_noise': expected 0", lambda: GPPrior(t_noise=0.1).exact_predictive(X, Y, QUERY)),
        (ValueError, "'y': expected shape", lambda: GPPrior().exact_predictive(X, Y[:, :2], QUERY)),
        (ValueError, "'noise_std'", lambda: RidgePrior(noise_std=-0.1)),
        (TypeError, "'dtype'", lambda: GPPrior(dtype=torch.float16)),
        (ValueError, "'device'", lambda: GPPrior(device="gpu")),
        (ValueError, "'n'", lambda: GPPrior().sample(2, -1)),
        (ValueError, "'batch'", lambda: GPPrior().sample(0, 2)),
        (TypeError, "'generator'", lambda: GPPrior().sample(1, 2, 0)),
        (
            ValueError,
            "'generator': expected one on the prior's device",
            lambda: RidgePrior(device="cuda").sample(1, 2, seeded()),
        ),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
