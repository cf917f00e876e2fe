"""Sparse GP regression: the bound's definition, the exact limit, monotony, fits, tiles, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.kernel_methods import RBF, GPRegression, SparseGPRegression

from .test_gp_kernels import AT, X, Y, matern
from .test_gp_regression import drawn

Z = X[:5] + 0.1


def test_the_bound_is_titsias_definition() -> None:
    bound = SparseGPRegression(X, Y, Z, matern, 0.3).evidence_bound()
    q = matern(X, Z) @ torch.linalg.solve(matern(Z, Z), matern(Z, X))
    normal = torch.distributions.MultivariateNormal(torch.zeros(15).double(), q + 0.3 * torch.eye(15).double())
    torch.testing.assert_close(bound, normal.log_prob(Y) - (matern(X, X) - q).trace() / 0.6)


@pytest.mark.parametrize("y", [Y, Y[0]])
def test_all_points_as_inducing_points_are_the_exact_regression(y: Any) -> None:
    exact, sparse = GPRegression(X, y, kernel=matern, noise=0.1), SparseGPRegression(X, y, X, matern, 0.1)
    torch.testing.assert_close(sparse.evidence_bound(), exact.log_evidence())
    torch.testing.assert_close(sparse.value_and_grad(AT), exact.value_and_grad(AT))
    torch.testing.assert_close(sparse.mean(AT), exact.mean(AT))
    for x in (AT, drawn(3, 4, 2)) if y.ndim == 2 else (AT,):
        for noisy in (False, True):
            one, other = (gp.predict(x, noisy=noisy) for gp in (exact, sparse))
            torch.testing.assert_close((one.mean, one.variance), (other.mean, other.variance))
            one, other = (gp.predict(x, joint=True, noisy=noisy).covariance_matrix for gp in (exact, sparse))
            torch.testing.assert_close(one, other.expand_as(one))


def test_more_inducing_points_raise_the_bound_up_to_the_evidence() -> None:
    bounds = [SparseGPRegression(X, Y, X[:m], matern, 0.1).evidence_bound() for m in (1, 4, 8, 12, 15)]
    assert bool((torch.stack(bounds).diff(dim=0) >= -1e-9).all())
    assert bool((bounds[-1] <= GPRegression(X, Y, kernel=matern, noise=0.1).log_evidence() + 1e-9).all())


def test_tiles_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SparseGPRegression(X, Y, Z, matern, 0.3).evidence_bound()
    monkeypatch.setattr("probkernels.kernel_methods.sparse_gp.ENTRIES", 20)
    torch.testing.assert_close(SparseGPRegression(X, Y, Z, matern, 0.3).evidence_bound(), whole)
    inputs = [Z.clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(lambda z, n: SparseGPRegression(X, Y, z, matern, n).evidence_bound(), inputs)


def test_no_whole_kernel_matrix_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probkernels.kernel_methods.sparse_gp.ENTRIES", 50)
    kept: list[int] = []
    x = drawn(200, 2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        SparseGPRegression(x, x[:, 0], 10).evidence_bound()
    assert max(kept) < 200 * 10


def test_a_fit_explains_the_data_and_leaves_the_kernel_alone() -> None:
    x = torch.linspace(-3, 3, 120, dtype=torch.float64)[:, None]
    y, kernel = (2 * x[:, 0]).sin() + 0.1 * drawn(120), RBF()
    start = SparseGPRegression(x, y, 10, kernel, 0.5, seed=1)
    fitted = start.fit(80)
    exact = GPRegression(x, y, kernel=kernel, noise=0.5).fit_hyperparameters(80)
    assert fitted.evidence_bound() > start.evidence_bound() + 10 and kernel.log_lengthscale.item() == 0
    assert -1.0 < float(fitted.evidence_bound() - exact.log_evidence()) < 0.05
    assert 0.05 < fitted.noise.sqrt() < 0.2 and not fitted.evidence_bound().requires_grad
    kept = start.fit(2, fit_inducing=False, fit_noise=False)
    assert torch.equal(kept.inducing, start.inducing) and torch.equal(kept.noise, start.noise)
    assert torch.equal(start.inducing, SparseGPRegression(x, y, 10, seed=1).inducing)


def test_one_point_of_single_precision() -> None:
    with torch.no_grad():
        found = SparseGPRegression(torch.zeros(1, 1), torch.ones(1), 1, noise=1.0).predict(torch.zeros(1, 1))
    assert found.mean.dtype == torch.float32 and found.mean.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "'inducing': expected points", lambda: SparseGPRegression(X, Y, 16)),
        (ValueError, r"'inducing': expected shape \(M, 2\)", lambda: SparseGPRegression(X, Y, Z[:, :1])),
        (TypeError, "'inducing': expected the dtype", lambda: SparseGPRegression(X, Y, Z.float())),
        (ValueError, "'inducing': expected finite", lambda: SparseGPRegression(X, Y, Z * math.inf)),
        (ValueError, "'noise'.*GPRegression takes", lambda: SparseGPRegression(X, Y, 3, noise=0.0)),
        (ValueError, "'noise': expected one positive", lambda: SparseGPRegression(X, Y, 3, noise=torch.ones(2))),
        (ValueError, "'X': expected shape", lambda: SparseGPRegression(X[:0], Y[:, :0], 3)),
        (ValueError, "'inducing'.*leave out", lambda: SparseGPRegression(X, Y, Z, lambda x, z: -(x @ z.mT))),
        (ValueError, "'x': expected shape", lambda: SparseGPRegression(X, Y, Z).predict(AT[:, :1])),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
