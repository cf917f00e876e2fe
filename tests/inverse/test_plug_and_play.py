"""Plug-and-play reconstruction: LASSO with the exact soft threshold, certificates, operators, wrong input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.inverse import ICNN, LPN, pnp_admm, pnp_pgd
from torch import Tensor

from tests.inverse.exact import Gaussian, SoftThreshold


class Matrix:
    """y = M x."""

    def __init__(self, m: Tensor) -> None:
        self.m = m

    def A(self, x: Tensor) -> Tensor:
        return x @ self.m.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.m


class Physics:
    """As deepinv names its methods."""

    def __init__(self, m: Tensor) -> None:
        self.m = m

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.m.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.m


def lasso(m: Tensor, y: Tensor, weight: float) -> Tensor:
    """argmin 1/2 ||y - M x||^2 + weight |x| by coordinate descent."""
    x = torch.zeros(m.shape[1], dtype=m.dtype)
    for _ in range(200):
        for j in range(len(x)):
            pull = m[:, j] @ (y - m @ x) + m[:, j].square().sum() * x[j]
            x[j] = torch.sign(pull) * (pull.abs() - weight).clamp_min(0) / m[:, j].square().sum()
    return x


def problem() -> tuple[Tensor, Tensor]:
    m = torch.randn(8, 5, dtype=torch.float64)
    truth = torch.tensor([2.0, 0, 0, -1.5, 0.3], dtype=torch.float64)
    return m, (m @ truth + 0.05 * torch.randn(8, dtype=torch.float64))[None]


def test_admm_and_gradient_descent_solve_lasso() -> None:
    m, y = problem()
    rho = 0.7
    expected = lasso(m, y[0], rho)
    found = pnp_admm(y, Matrix(m), LPN(SoftThreshold()), rho=rho, steps=2000, tol=1e-10, inner_tol=1e-12, warn=False)
    assert found.converged and len(found.primal_residual) < 2000
    torch.testing.assert_close(found.x[0], expected, rtol=0, atol=1e-7)
    gradient = found.data_x @ m.T @ m - y @ m
    torch.testing.assert_close(gradient, -rho * found.dual, rtol=0, atol=1e-6)
    eta = 0.9 / float(torch.linalg.eigvalsh(m.T @ m)[-1])
    expected = lasso(m, y[0], 1 / eta)
    found = pnp_pgd(y, Physics(m), LPN(SoftThreshold()), eta=eta, steps=5000, tol=1e-12, warn=False)
    torch.testing.assert_close(found.x[0], expected, rtol=0, atol=1e-8)


def test_rows_are_solved_alone_and_a_gaussian_prior_gives_ridge() -> None:
    m, y = problem()
    y = torch.cat([y, 100 * y])
    c, rho = 0.8, 2.0
    found = pnp_admm(
        y, Matrix(m), LPN(Gaussian(c)), rho=rho, scale=1.5, steps=3000, tol=1e-11, inner_tol=1e-13, warn=False
    )
    ridge = rho * (1 / c - 1) / 3
    truth = torch.linalg.solve(m.T @ m + ridge * torch.eye(5, dtype=m.dtype), m.T @ y.T).T
    torch.testing.assert_close(found.x, truth, rtol=1e-6, atol=1e-7)


def test_certificate() -> None:
    m, y = problem()
    size = float(torch.linalg.eigvalsh(m.T @ m)[-1])
    net = LPN(ICNN(5, 8, 1, strong_convexity=0.1)).double()
    net.project_()
    found = pnp_admm(y, Matrix(m), net, rho=1.1 * size, steps=3000, tol=1e-8)
    assert found.certificate.holds and found.converged
    assert found.certificate.lipschitz == pytest.approx(size, rel=1e-3)
    with pytest.warns(UserWarning, match="pnp_admm: convergence is not certified: it needs rho above"):
        assert not pnp_admm(y, Matrix(m), net, rho=0.5 * size, steps=2).certificate.holds
    with pytest.warns(UserWarning, match="got rho"):
        pnp_admm(y, Matrix(m), LPN(SoftThreshold()), rho=2 * size, steps=2)
    descent = pnp_pgd(y, Matrix(m), net, steps=2)
    assert descent.certificate.holds and not descent.converged
    with pytest.warns(UserWarning, match="eta below"):
        pnp_pgd(y, Matrix(m), net, eta=2.0 / size, steps=2)


def test_sigma_is_passed_and_x_clipped() -> None:
    m, y = problem()
    seen: list[float] = []

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return x

    x = pnp_pgd(y, Matrix(m), denoiser, sigma=0.2, steps=3, clip=(0.0, 1.0), warn=False).x
    pnp_admm(y, Matrix(m), denoiser, sigma=0.2, rho=1.0, steps=2, warn=False)
    assert seen == [0.2] * 5 and x.min() >= 0 and x.max() <= 1


M = Matrix(torch.eye(2))
Y = torch.ones(1, 2)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"y": Y.to(torch.complex64)}, TypeError, "argument 'y': expected dtype.*view_as_real"),
    ({"y": Y / 0 * 0}, ValueError, "argument 'y': expected finite numbers"),
    ({"operator": 3}, TypeError, "argument 'operator': expected an object with A"),
    ({"denoiser": 3}, TypeError, "argument 'denoiser'"),
    ({"denoiser": lambda x: x[:, :1]}, ValueError, "argument 'denoiser\\(x\\)': expected shape"),
    ({"sigma": 0.0}, ValueError, "argument 'sigma': expected a positive number"),
    ({"sigma": -1.0}, ValueError, "argument 'sigma': expected a positive number"),
    ({"scale": 0.0}, ValueError, "argument 'scale': expected a positive number"),
    ({"steps": 0}, ValueError, "argument 'steps'"),
    ({"start": torch.ones(1, 3)}, ValueError, "argument 'start': expected shape"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"y": Y, "operator": M, "denoiser": lambda x: x, "warn": False, **change}
    with pytest.raises(error, match=f"pnp_pgd: {text}"):
        pnp_pgd(**given)
    with pytest.raises(error, match=f"pnp_admm: {text}"):
        pnp_admm(**given, rho=1.0)
    with pytest.raises(ValueError, match="argument 'rho': expected a positive number"):
        pnp_admm(Y, M, lambda x: x, rho=0.0)
