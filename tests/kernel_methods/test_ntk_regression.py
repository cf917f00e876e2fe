"""Ensembles of wide networks: closed forms for permutations, GP limits, trained networks, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.kernel_methods import GPRegression, MLPKernel, NTKRegressor
from torch import Tensor

from .test_gp_regression import drawn


class TwoLayers:
    """The kernels of f(x) = W2 relu(W1 x / sqrt(k)) / sqrt(n), as the permutation paper has them."""

    def _parts(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norms = x.norm(dim=1)[:, None] * z.norm(dim=1) / x.shape[1]
        u = (torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(z).mT).clamp(-1, 1)
        rest = math.pi - u.acos()
        psi = ((1 - u * u).sqrt() + rest * u) / (2 * math.pi)
        return norms, psi, rest * u / (2 * math.pi)

    def nngp(self, x: Tensor, z: Tensor) -> Tensor:
        norms, psi, _ = self._parts(x, z)
        return norms * psi

    def ntk(self, x: Tensor, z: Tensor) -> Tensor:
        norms, psi, zeta = self._parts(x, z)
        return norms * (psi + zeta)


@pytest.mark.parametrize(
    ("trained", "k", "m", "one", "zero", "variance"),
    [
        ("all", 3, 2, 0.55709741, -0.01817467, 2.23263120e-2),
        ("all", 5, 2, 0.56063224, -0.01463984, 1.32346846e-2),
        ("all", 30, 2, 0.57100534, -0.00426674, 2.13969041e-3),
        ("all", 5, 3, 0.41107836, -0.03202377, 1.90863182e-2),
        ("last", 5, 2, 0.6016565538, -0.0395428268, 0.0128766869),
    ],
)
def test_permutations(trained: str, k: int, m: int, one: float, zero: float, variance: float) -> None:
    eye = torch.eye(k, dtype=torch.float64)
    permutation = eye[torch.randperm(k, generator=torch.Generator().manual_seed(0))]
    x = torch.zeros(k, dtype=torch.float64)
    x[:m] = 1
    mean, cov = NTKRegressor(TwoLayers(), trained).fit(eye, permutation.mT).predict((x / m**0.5)[None], cov=True)
    expected = torch.where(permutation @ x > 0, eye.new_tensor(one), eye.new_tensor(zero))
    torch.testing.assert_close(mean[0], expected, rtol=0, atol=1e-8)
    assert cov.item() == pytest.approx(variance, rel=1e-7)


def test_the_library_kernel_is_the_same_network_up_to_scale() -> None:
    """MLPKernel of one hidden layer has twice the variances, so that means agree and covariances differ by a factor."""
    X, x, Y = drawn(4, 3), drawn(5, 3, seed=1), drawn(4, 2, seed=2)
    with torch.no_grad():
        found = [NTKRegressor(k).fit(X, Y).predict(x, cov=True) for k in (TwoLayers(), MLPKernel(depth=1))]
        factor = MLPKernel(depth=1).nngp(x, x)[0, 0] / TwoLayers().nngp(x, x)[0, 0]
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1] * factor, found[1][1])


def test_a_trained_last_layer_is_a_gaussian_process() -> None:
    X, x, Y = drawn(6, 3), drawn(5, 3, seed=1), drawn(6, seed=2)
    law = GPRegression(X, Y, kernel=TwoLayers().nngp, noise=0.0).predict(x, joint=True)
    mean, cov = NTKRegressor(TwoLayers(), "last").fit(X, Y).predict(x, cov=True)
    torch.testing.assert_close((mean, cov), (law.mean, law.covariance_matrix), rtol=1e-6, atol=1e-9)


def test_training_points_are_interpolated_and_a_ridge_keeps_the_start() -> None:
    X, Y = drawn(6, 3), drawn(6, 2, seed=2)
    mean, cov = NTKRegressor(TwoLayers()).fit(X, Y).predict(X, cov=True)
    torch.testing.assert_close(mean, Y)
    assert cov.abs().max() < 1e-10
    mean, cov = NTKRegressor(TwoLayers(), ridge=1e9).fit(X.float(), Y.float()).predict(X.float(), cov=True)
    assert mean.abs().max() < 1e-6 and mean.dtype == torch.float32
    torch.testing.assert_close(cov, TwoLayers().nngp(X, X).float())


def test_the_moments_are_those_of_linearized_networks() -> None:
    """Gradient descent on a linear model: the mean and covariance over random starts, by simulation of features."""
    features = drawn(40, 9, seed=4)  # 3 points of the data, 6 new ones, as columns
    nngp, ntk = features[:20].mT @ features[:20], features.mT @ features
    # f = features^T w, w = 0 in the second half at the start: K from the first half, Theta from all
    start, Y = drawn(4000, 20, seed=5), drawn(3, seed=6)
    before = start @ features[:20]
    step = torch.linalg.solve(ntk[:3, :3], (Y - before[:, :3]).mT).mT
    after = before[:, 3:] + step @ ntk[:3, 3:]

    class Given:
        def nngp(self, x: Tensor, z: Tensor) -> Tensor:
            return nngp[x[:, 0].long()][:, z[:, 0].long()]

        def ntk(self, x: Tensor, z: Tensor) -> Tensor:
            return ntk[x[:, 0].long()][:, z[:, 0].long()]

    index = torch.arange(9.0)[:, None]
    mean, cov = NTKRegressor(Given()).fit(index[:3], Y.float()).predict(index[3:], cov=True)
    deviation = cov.diagonal().sqrt().double()
    assert ((after.mean(0) - mean).abs() < 5 * deviation / 4000**0.5).all()
    scale = deviation[:, None] * deviation
    assert ((after.mT.cov() - cov).abs() < 0.12 * scale).all()


FITTED = NTKRegressor(TwoLayers()).fit(torch.eye(3), torch.ones(3))


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (TypeError, "nngp", lambda: NTKRegressor(lambda x, z: x @ z.mT)),
        (ValueError, "'trained': expected one of 'all', 'last'", lambda: NTKRegressor(TwoLayers(), "first")),
        (ValueError, "'ridge'", lambda: NTKRegressor(TwoLayers(), ridge=-1.0)),
        (RuntimeError, "call fit", lambda: NTKRegressor(TwoLayers()).predict(torch.eye(2))),
        (ValueError, r"'Y': expected shape \(3,\)", lambda: NTKRegressor(TwoLayers()).fit(torch.eye(3), torch.eye(2))),
        (ValueError, "'Y': expected finite", lambda: NTKRegressor(TwoLayers()).fit(torch.eye(1), torch.ones(1) / 0)),
        (ValueError, "'X': expected shape", lambda: NTKRegressor(TwoLayers()).fit(torch.eye(3)[:0], torch.ones(0))),
        (TypeError, "'X'", lambda: NTKRegressor(TwoLayers()).fit(torch.eye(3).half(), torch.ones(3).half())),
        (ValueError, "'x': expected shape", lambda: FITTED.predict(torch.ones(2, 2))),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
