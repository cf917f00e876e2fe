"""GP regression with any kernel: scikit-learn and scipy as oracles, fits, joint laws, gradients, edge cases, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.kernel_methods import RBF, GPRegression, as_kernel
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from torch import Tensor

from .test_gp_regression import drawn

X, Y, AT = drawn(15, 2), drawn(3, 15, seed=1), drawn(6, 2, seed=2)
SCALES = torch.tensor([0.8, 1.7], dtype=torch.float64)


def matern(x: Tensor, z: Tensor) -> Tensor:
    """Matern of order 3/2, smooth at 0 for autograd."""
    r = (3 * (x[..., :, None, :] - z[..., None, :, :]).square().sum(-1) + 1e-30).sqrt()
    return (1 + r) * (-r).exp()


def theirs(kernel: Any, noise: float, y: Tensor = Y[0], **options: Any) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(kernel, alpha=noise, **{"optimizer": None} | options).fit(X.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("kernel", "sklearn_kernel"),
    [
        (matern, kernels.Matern(1.0, nu=1.5)),
        (1.5 * RBF(SCALES) + (lambda x, z: 1 + x @ z.mT), 1.5 * kernels.RBF(SCALES.numpy()) + kernels.DotProduct(1.0)),
    ],
)
def test_predictions_and_evidence_are_those_of_scikit_learn(kernel: Any, sklearn_kernel: Any) -> None:
    gp = GPRegression(X, Y, kernel=kernel, noise=0.1)
    single, found, joint = gp.log_evidence(), gp.predict(AT), gp.predict(AT, joint=True)
    assert gp.cholesky.shape == (1, 15, 15) and joint.batch_shape == (3,) and single.shape == (3,)
    for f in range(3):
        right = theirs(sklearn_kernel, 0.1, Y[f])
        mean, covariance = (torch.from_numpy(t) for t in right.predict(AT.numpy(), return_cov=True))
        torch.testing.assert_close(found.mean[f], mean)
        torch.testing.assert_close(found.variance[f], covariance.diagonal())
        torch.testing.assert_close(joint.mean[f], mean)
        torch.testing.assert_close(joint.covariance_matrix[f], covariance)
        assert single[f].item() == pytest.approx(right.log_marginal_likelihood_value_)
    covariance = (as_kernel(kernel)(X) + 0.1 * torch.eye(15)).detach().numpy()
    assert single[0].item() == pytest.approx(multivariate_normal(cov=covariance).logpdf(Y[0].numpy()))


def test_a_kernel_gives_what_hyperparameters_give() -> None:
    """RBF both ways: points for all functions, points of each, one function, other noise for each, noise in y."""
    noise, each = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64), drawn(3, 4, 2, seed=3)
    for y, level in ((Y, noise), (Y, 0.1), (Y[0], 0.1), (Y[0], noise)):
        one, other = GPRegression(X, y, 1.3, 2.0, level), GPRegression(X, y, kernel=RBF(1.3, 2.0), noise=level)
        for x in (AT, each) if one.log_evidence().ndim else (AT,):
            torch.testing.assert_close(other.value_and_grad(x), one.value_and_grad(x))
            for noisy in (False, True):
                torch.testing.assert_close(other.predict(x, noisy=noisy).stddev, one.predict(x, noisy=noisy).stddev)
                joint = [gp.predict(x, joint=True, noisy=noisy) for gp in (one, other)]
                torch.testing.assert_close(joint[0].covariance_matrix, joint[1].covariance_matrix)
                variance = joint[0].covariance_matrix.diagonal(dim1=-2, dim2=-1)
                torch.testing.assert_close(variance, one.predict(x, noisy=noisy).variance)
        torch.testing.assert_close(other.log_evidence(), one.log_evidence())
        torch.testing.assert_close(other.mean(AT), other.value_and_grad(AT)[0])
    plain, noisy = (one.predict(AT, noisy=n).variance for n in (False, True))
    torch.testing.assert_close(noisy - plain, noise[:, None].expand(3, 6))


def test_gradients_reach_x_and_the_parameters_of_the_kernel() -> None:
    kernel = RBF(SCALES, 1.5)

    def results(x: Tensor, log_lengthscale: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        def call(a: Tensor, b: Tensor) -> Tensor:
            given = {"log_lengthscale": log_lengthscale, "log_variance": log_variance}
            return torch.func.functional_call(kernel, given, (a, b))

        gp = GPRegression(X, Y[:2], kernel=call, noise=noise)
        return *gp.value_and_grad(x), gp.predict(x).variance, gp.log_evidence()

    hyper = [t.detach().clone().requires_grad_() for t in (kernel.log_lengthscale, kernel.log_variance)]
    inputs = [AT[:2].clone().requires_grad_(), *hyper, torch.tensor(0.1, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(results, inputs)
    with torch.no_grad():
        value, grad = GPRegression(X, Y, kernel=kernel).value_and_grad(AT)
    assert not value.requires_grad and not grad.requires_grad


def test_blocks_of_points_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gp, each = GPRegression(X, Y, kernel=matern), drawn(3, 5, 2)
    whole = [gp.value_and_grad(x) for x in (AT, each)]
    monkeypatch.setattr("probkernels.kernel_methods._posterior.ENTRIES", 30)
    for x, right in zip((AT, each), whole, strict=True):
        torch.testing.assert_close(gp.value_and_grad(x), right)


def test_the_fit_finds_the_optimum_of_scikit_learn() -> None:
    y = (X[:, 0].sin() + 0.1 * drawn(15, seed=4))[None].expand(2, -1) * torch.tensor([[1.0], [3.0]])
    kernel = kernels.ConstantKernel(1.0) * kernels.RBF(1.0) + kernels.WhiteKernel(0.1)
    best = [theirs(kernel, 0.0, one, optimizer="fmin_l_bfgs_b").log_marginal_likelihood_value_ for one in y]
    start = {"lengthscale": torch.ones(2), "variance": torch.ones(2), "noise": torch.full((2,), 0.1)}
    fitted = GPRegression(X, y, **start).fit_hyperparameters()
    torch.testing.assert_close(fitted.log_evidence(), torch.tensor(best, dtype=torch.float64), rtol=0, atol=2e-3)
    assert len(fitted.history) == 200 and fitted.history[0] < fitted.history[-1]
    given = RBF()
    shared = GPRegression(X, y[0], kernel=given, noise=0.1).fit_hyperparameters()
    torch.testing.assert_close(shared.log_evidence(), fitted.log_evidence()[0], rtol=0, atol=1e-4)
    assert given.log_variance.item() == 0 and not shared.log_evidence().requires_grad
    torch.testing.assert_close(shared.kernel.lengthscale, fitted.lengthscale[0], rtol=1e-2, atol=0)


def test_a_fit_may_keep_the_noise() -> None:
    kept = GPRegression(X, Y[0], noise=0.0).fit_hyperparameters(5, fit_noise=False)
    assert kept.noise.item() == 0 and kept.lengthscale.item() != 1
    only = GPRegression(X, Y[0], kernel=matern).fit_hyperparameters(5)
    assert only.noise.item() != 0.01
    with pytest.raises(ValueError, match="'noise': expected numbers > 0"):
        GPRegression(X, Y[0], noise=0.0).fit_hyperparameters(5)
    with pytest.raises(ValueError, match="'kernel': expected parameters"):
        GPRegression(X, Y[0], kernel=matern).fit_hyperparameters(5, fit_noise=False)


def test_one_point_and_equal_points() -> None:
    one = GPRegression(torch.zeros(1, 1), torch.ones(1), kernel=RBF(1.0, 3.0), noise=1.0)
    with torch.no_grad():
        found = one.predict(torch.zeros(1, 1))
    assert found.mean.item() == pytest.approx(0.75) and found.variance.item() == pytest.approx(0.75)
    twice = GPRegression(torch.zeros(2, 1), torch.ones(2), kernel=RBF(), noise=0.0)
    assert 0 <= float(twice.jitter) <= 1e-6
    law = GPRegression(X, Y[0], noise=0.0).predict(X, joint=True)  # a covariance of zeros, up to rounding
    torch.testing.assert_close(law.mean, Y[0], rtol=1e-6, atol=1e-6)
    assert (law.sample() - Y[0]).abs().max() < 1e-2


def test_constant_targets_have_a_fit() -> None:
    for level in (0.0, 2.0):
        fitted = GPRegression(X, torch.full_like(Y[0], level)).fit_hyperparameters(20)
        assert fitted.log_evidence().isfinite() and fitted.history[-1] > fitted.history[0]


def test_results_have_the_dtype_of_the_points_and_digits_of_float64() -> None:
    single = GPRegression(X.float(), Y.float(), kernel=RBF(6.25, 6.25))
    wide = GPRegression(X.float().double(), Y.float().double(), kernel=RBF(6.25, 6.25))
    narrow = single.predict(AT.float(), joint=True)
    assert narrow.mean.dtype == single.log_evidence().dtype == torch.float32
    torch.testing.assert_close(single.mean(AT.float()).double(), wide.mean(AT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, r"'X': expected shape \(N, D\)", lambda: GPRegression(X[:0], Y[:, :0], kernel=RBF())),
        (ValueError, "'lengthscale': expected None beside a kernel", lambda: GPRegression(X, Y, 2.0, kernel=RBF())),
        (TypeError, "a kernel: a callable", lambda: GPRegression(X, Y, kernel="rbf")),
        (ValueError, "got shape", lambda: GPRegression(X, Y, kernel=lambda x, z: x.new_ones(3, 15, 15))),
        (ValueError, "positive definite kernel matrix", lambda: GPRegression(X, Y, kernel=lambda x, z: -(x @ z.mT))),
        (ValueError, "positive definite", lambda: GPRegression(X, Y, kernel=lambda x, z: x @ z.mT * math.nan)),
        (TypeError, "float32 or float64", lambda: GPRegression(X.half(), Y.half(), kernel=RBF())),
        (ValueError, "'x': expected shape", lambda: GPRegression(X, Y, kernel=RBF()).predict(AT[:, :1])),
        (TypeError, "'x': expected the dtype of 'X'", lambda: GPRegression(X, Y, kernel=RBF()).mean(AT.float())),
        (ValueError, "'x': expected shape", lambda: GPRegression(X, Y).predict(AT.expand(2, -1, -1))),
        (ValueError, "'steps'", lambda: GPRegression(X, Y).fit_hyperparameters(0)),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
