"""Matern and periodic kernels, predictions of processes with data of their own, samplers that serve all at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.kernel_methods import (
    RBF,
    GPRegression,
    GPSampler,
    Matern,
    Periodic,
    matern_kernel,
    periodic_kernel,
    predict_each,
    rbf_kernel,
)
from sklearn.gaussian_process import kernels
from torch import Tensor
from torch.distributions import Uniform

from .test_gp_regression import drawn

X, Z = drawn(6, 2), drawn(4, 2, seed=1)
POINT, OTHER = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)


def test_kernels_at_one_distance() -> None:
    assert matern_kernel(POINT, OTHER, 0.5, 1.0).item() == pytest.approx(0.7689931093, abs=1e-10)
    assert periodic_kernel(POINT, OTHER, 0.5, 0.4, 1.0).item() == pytest.approx(0.0183156389, abs=1e-10)
    assert rbf_kernel(POINT, OTHER, 0.5, 1.0).item() == pytest.approx(0.8352702114, abs=1e-10)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern_is_that_of_scikit_learn(nu: float) -> None:
    expected = 1.7 * kernels.Matern(0.8, nu=nu)(X.numpy(), Z.numpy())
    torch.testing.assert_close(matern_kernel(X, Z, 0.8, 1.7, nu), torch.from_numpy(expected))
    module = Matern(0.8, 1.7, nu)
    torch.testing.assert_close(module(X, Z).detach(), torch.from_numpy(expected))
    torch.testing.assert_close(module.diagonal(X), module(X).diagonal())
    at = X.clone().requires_grad_()
    module(at).sum().backward()
    assert at.grad is not None and at.grad.isfinite().all()


def test_periodic_is_that_of_scikit_learn() -> None:
    x, z = X[:, :1], Z[:, :1]
    expected = torch.from_numpy(1.7 * kernels.ExpSineSquared(0.8, 0.6)(x.numpy(), z.numpy()))
    torch.testing.assert_close(Periodic(0.8, 0.6, 1.7)(x, z).detach(), expected)
    torch.testing.assert_close(Periodic(0.8, 0.6, 1.7).diagonal(x), torch.full((6,), 1.7).double())


def test_each_function_is_predicted_from_its_own_data() -> None:
    inputs, at, y = drawn(3, 7, 2), drawn(3, 5, 2, seed=2), drawn(3, 7, seed=3)
    noise = torch.tensor([0.01, 0.1, 0.5])
    with torch.no_grad():
        kernel = Matern(0.7, 1.3)
        found = predict_each(kernel, inputs, y, at, noise, noisy=True)
        for i in range(3):
            one = GPRegression(inputs[i], y[i], noise=noise[i], kernel=kernel).predict(at[i], noisy=True)
            torch.testing.assert_close(found.mean[i], one.mean)
            torch.testing.assert_close(found.stddev[i], one.stddev)
        prior = predict_each(kernel, inputs[:, :0], y[:, :0], at, 0.2)
    assert (prior.mean == 0).all()
    torch.testing.assert_close(prior.variance, torch.full((3, 5), 1.3).double())


def test_a_batched_kernel_draws_the_same_functions() -> None:
    def together(variance: Tensor) -> Any:
        return lambda x, z: rbf_kernel(x, z, 1.0, variance[:, None, None])

    priors, x = {"variance": Uniform(0.5, 1.5)}, drawn(5, 6, 1)
    generators = [torch.Generator().manual_seed(0) for _ in range(3)]
    expected = GPSampler(lambda variance: RBF(1.0, variance), priors)(x, 5, generators[0])
    sampler = GPSampler(together, priors, batched=True)
    torch.testing.assert_close(sampler(x, 5, generators[1]), expected, rtol=1e-5, atol=1e-6)
    given = sampler.hyperparameters(5, generators[2])
    torch.testing.assert_close(sampler(x, 5, generators[2], given), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'hyperparameters': expected 5 of each of \\['variance'\\]"):
        sampler(x, 5, None, {"variance": given["variance"][:2]})


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "'nu'", lambda: Matern(nu=2.0)),
        (ValueError, "'lengthscale'", lambda: matern_kernel(X, Z, -1.0, 1.0)),
        (ValueError, "'z'", lambda: matern_kernel(X, Z[:, :1], 1.0, 1.0)),
        (ValueError, "'period'", lambda: periodic_kernel(X, Z, 1.0, 0.0, 1.0)),
        (ValueError, "'period'.*-1.0", lambda: periodic_kernel(X, Z, 1.0, torch.tensor(-1.0), 1.0)),
        (ValueError, "'y': expected shape", lambda: predict_each(RBF(), X[None], X[None], Z[None])),
        (ValueError, "'X'", lambda: predict_each(RBF(), X, X[:, 0], Z)),
        (ValueError, "'noise'.*-0.1", lambda: predict_each(RBF(), X[None], X[None, :, 0], Z[None], -0.1)),
        (ValueError, "'y'.*nan", lambda: predict_each(RBF(), X[None], X[None, :, 0] * float("nan"), Z[None])),
        (TypeError, "'x'", lambda: predict_each(RBF(), X[None], X[None, :, 0], Z[None].float())),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
