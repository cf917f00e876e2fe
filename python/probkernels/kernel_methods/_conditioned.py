"""A Gaussian process of any kernel, conditioned on points: what scale mixtures know for sigma^2 = 1."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._cholesky import factorize
from .kernel import Kernel


class Conditioned:
    """The process given y at X: solves with K + noise I, one matrix for everything.

    Args:
        op: of the user, for errors.
        kernel, noise: with or without gradients; results carry them.
        X: (N, D), N >= 0.
        y: (N,).

    Attributes:
        quadratic: y' (K + noise I)^-1 y.
        log_det: log det (K + noise I).
        jitter: what was added to the diagonal.
    """

    def __init__(self, op: str, kernel: Kernel, noise: Tensor, X: Tensor, y: Tensor) -> None:
        self.op, self.kernel, self.noise, self.dtype = op, kernel, noise, X.dtype
        self.X = X.to(torch.float64, copy=True)  # the user may write into X afterwards
        if len(X) == 0:
            self.factor, self.jitter = self.X.new_zeros((0, 0)), self.X.new_zeros(())
        else:
            self.factor, self.jitter = self.factorized(self._noisy(kernel(self.X)), "X")
        half = torch.linalg.solve_triangular(self.factor, y.double()[:, None], upper=False)
        self.weights = torch.linalg.solve_triangular(self.factor.mT, half, upper=True)[:, 0]
        self.quadratic, self.log_det = half.square().sum(), log_det(self.factor)

    def _noisy(self, covariance: Tensor) -> Tensor:
        return covariance + self.noise * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)

    def factorized(self, matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """The Cholesky factor, and the jitter that it took."""
        if len(matrix) == 0:
            return matrix, matrix.new_zeros(())
        factor, jitter, failed = factorize(matrix)
        if bool(failed.any()):
            wrong = ~matrix.isfinite()
            bad = bool(wrong.any())
            got = (
                checks.offender(matrix, wrong, "an entry ") if bad else f"one that is not, noise {float(self.noise):g}"
            )
            hint = "" if bad else "raise noise; is the kernel positive semidefinite?"
            raise ValueError(message(self.op, name, "a positive definite kernel matrix", got, hint))
        return factor, jitter

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean (M,), and two matrices (.., M): of the prior's variance, the squares of the first are known, and
        those of the second are not known after all."""
        self._check(x)
        if len(self.X) == 0 or len(x) == 0:
            none = self.X.new_zeros((len(self.X), len(x)))
            return none.sum(0), none, none[:0]
        cross = self.kernel(self.X, x.double())
        explained = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        return self.weights @ cross, explained, explained[:0]

    def _check(self, x: Tensor) -> None:
        checks.wide_float_tensor(self.op, "x", x, checks.AS_TENSOR)
        width = self.X.shape[1]
        if x.ndim != 2 or x.shape[1] != width or x.dtype != self.dtype:
            raise ValueError(message(self.op, "x", f"shape (M, {width}), {self.dtype}, as 'X'", checks.describe(x)))
        checks.same_device(self.op, "x", x, self.X, "X")

    def moments(self, x: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:
        """Mean and variance of each value at x (M, D): (M,), (M,)."""
        mean, known, back = self._parts(x)
        prior = self.kernel.diagonal(x.double()) if len(x) else mean
        variance = (prior - known.square().sum(0) + back.square().sum(0)).clamp(min=0)
        return mean, variance + self.noise if noisy else variance

    def joint(self, x: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:
        """Mean (M,) and covariance (M, M)."""
        mean, known, back = self._parts(x)
        if len(x) == 0:
            return mean, self.X.new_zeros((0, 0))
        covariance = self.kernel(x.double()) - known.mT @ known + back.mT @ back
        return mean, self._noisy(covariance) if noisy else covariance


class SparselyConditioned(Conditioned):
    """The process given y at X through inducing points Z: Q = k(X, Z) k(Z, Z)^-1 k(Z, X) in place of K.

    ``log_det`` holds tr(K - Q) / noise too: with it, the density of y is Titsias' lower bound for every sigma^2.

    Args:
        op: of the user, for errors.
        kernel, noise: with or without gradients; results carry them.
        X: (N, D).
        y: (N,).
        inducing: (M, D).
    """

    def __init__(self, op: str, kernel: Kernel, noise: Tensor, X: Tensor, y: Tensor, inducing: Tensor) -> None:
        self.op, self.kernel, self.noise, self.dtype = op, kernel, noise, X.dtype
        self.X, self.inducing = X.to(torch.float64, copy=True), inducing.double()
        self.factor, self.jitter = self.factorized(kernel(self.inducing), "inducing")
        a = torch.linalg.solve_triangular(self.factor, kernel(self.inducing, self.X), upper=False)  # (M, N)
        self.inner, _ = self.factorized(self._eye(a) + a @ a.mT / noise, "noise")
        part = torch.linalg.solve_triangular(self.inner, (a @ y.double() / noise)[:, None], upper=False)
        self.coefficients = torch.linalg.solve_triangular(self.inner.mT, part, upper=True)[:, 0]
        self.quadratic = y.double().square().sum() / noise - part.square().sum()
        missed = (kernel.diagonal(self.X).sum() - a.square().sum()) / noise
        self.log_det = log_det(self.inner) + len(X) * noise.log() + missed

    @staticmethod
    def _eye(a: Tensor) -> Tensor:
        return torch.eye(len(a), dtype=a.dtype, device=a.device)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._check(x)
        if len(x) == 0:
            none = self.X.new_zeros((0, 0))
            return none.sum(0), none, none
        known = torch.linalg.solve_triangular(self.factor, self.kernel(self.inducing, x.double()), upper=False)
        return self.coefficients @ known, known, torch.linalg.solve_triangular(self.inner, known, upper=False)


def log_det(factor: Tensor) -> Tensor:
    """Of the matrix with this Cholesky factor."""
    return 2 * factor.diagonal().log().sum()
