"""Sparse regression with Gaussian processes: inducing points and a lower bound of the evidence."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from .._core import checks
from .._core.errors import message
from . import _posterior as posterior
from ._cholesky import factor_or_raise
from .gp_regression import check_data
from .kernel import RBF, Kernel, as_kernel

ENTRIES = 2**22  # of a tile of the kernel matrix between inducing points and data
HINT = "leave out equal inducing points, or use another kernel"


class SparseGPRegression:
    """GP regression through M inducing points: O(N M^2) time, and a lower bound of the evidence to fit everything by.

    The bound is log N(y; 0, Q + noise I) - tr(K - Q) / (2 noise), with Q = k(X, Z) k(Z, Z)^-1 k(Z, X). It equals the
    evidence if the inducing points Z are the data. The kernel matrix is computed in tiles, again in the backward pass:
    memory is O(N + M^2). Everything is computed in float64 and returned in the dtype of X.

    Args:
        X: (N, D) points, float32 or float64, N >= 1.
        y: (N,) values, or (F, N). Functions share the kernel, the noise and the inducing points.
        inducing: (M, D) points of the dtype of X; or M: that many points of the data, drawn with ``seed``.
        kernel: a :class:`Kernel`, a callable or a gpytorch kernel, see :func:`as_kernel`; None for ``RBF()``.
        noise: variance of the noise, a number > 0, or a tensor ().
        seed: of the draw of inducing points.

    Attributes:
        inducing: (M, D).
        noise: (), float64.
        history: of an object that :meth:`fit` made, the bound before each step; else empty.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, a number is not finite or out of range, or a kernel matrix of
            the inducing points has no Cholesky factor.

    Reference:
        Titsias, "Variational Learning of Inducing Variables in Sparse Gaussian Processes", AISTATS 2009.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import SparseGPRegression
        >>> X = torch.linspace(0, 6, 500)[:, None]
        >>> gp = SparseGPRegression(X, X.sin()[:, 0], 12).fit(20)
        >>> bool(gp.evidence_bound() > gp.history[0]), gp.inducing.shape
        (True, torch.Size([12, 1]))
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        inducing: int | Tensor,
        kernel: object = None,
        noise: float | Tensor = 0.01,
        *,
        seed: int = 0,
    ) -> None:
        op = type(self).__name__
        check_data(op, X, y)
        self.single, self.X, self.y = y.ndim == 1, X, y if y.ndim == 2 else y[None]
        self.kernel: Kernel = RBF().to(X.device) if kernel is None else as_kernel(kernel)
        self.inducing = inducing_points(op, inducing, X, seed)
        self.noise = _noise(op, noise, X)
        self.history: list[float] = []
        self._solve(op)

    def _solve(self, op: str) -> None:
        z = self.inducing.double()
        self._outer = factor_or_raise(op, "inducing", self.kernel(z), hint=HINT)  # of k(Z, Z)
        self._gram, self._projected, self._variance = self._sums(z)
        eye = torch.eye(len(z), dtype=z.dtype, device=z.device)
        self._inner = factor_or_raise(op, "noise", eye + self._gram / self.noise, hint="raise the noise")
        self._coefficients = torch.linalg.solve_triangular(self._inner, self._projected / self.noise, upper=False)
        back = torch.linalg.solve_triangular(self._inner.mT, self._coefficients, upper=True)
        weights = torch.linalg.solve_triangular(self._outer.mT, back, upper=True)
        self._weights = weights.mT  # (F, M)

    def _sums(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With A = L^-1 k(Z, X) and L the factor of k(Z, Z): A A^T (M, M), A y (M, F), and the trace of k(X, X)."""
        rows = max(1, ENTRIES // len(z))
        total: tuple[Tensor, ...] = ()
        for x, y in zip(self.X.split(rows), self.y.mT.split(rows), strict=True):
            if torch.is_grad_enabled():
                part = checkpoint(self._tile, x, y, z, self._outer, use_reentrant=False, preserve_rng_state=False)
            else:
                part = self._tile(x, y, z, self._outer)
            total = tuple(a + b for a, b in zip(total, part, strict=True)) if total else part
        gram, projected, variance = total
        return gram, projected, variance

    def _tile(self, x: Tensor, y: Tensor, z: Tensor, outer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.double()
        a = torch.linalg.solve_triangular(outer, self.kernel(z, wide), upper=False)
        return a @ a.mT, a @ y.double(), self.kernel.diagonal(wide).sum()

    def evidence_bound(self) -> Tensor:
        """The lower bound of log p(y | X) of every function, (F,), or () for one function; natural logarithm."""
        found = self._bound()
        return (found[0] if self.single else found).to(self.X)

    def _bound(self) -> Tensor:
        y = self.y.double()
        log_det = 2 * self._inner.diagonal().log().sum() + len(self.X) * (2 * math.pi * self.noise).log()
        fit = y.square().sum(1) / self.noise - self._coefficients.square().sum(0)
        missed = (self._variance - self._gram.trace()) / self.noise  # what the inducing points do not explain
        return -(log_det + fit + missed) / 2

    def mean(self, x: Tensor) -> Tensor:
        """The posterior mean at x (M', D) or (F, M', D): (F, M'), or (M',) for one function."""
        posterior.check_points(f"{type(self).__name__}.mean", x, self.X, len(self.y))
        found = posterior.kernel_sums(self.kernel, x.double(), self.inducing.double(), self._weights).to(self.X)
        return found[0] if self.single else found

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean and its gradient with respect to x, (F, M', D), or (M', D) for one function."""
        posterior.check_points(f"{type(self).__name__}.value_and_grad", x, self.X, len(self.y))
        found = posterior.kernel_sums_and_grad(self.kernel, x.double(), self.inducing.double(), self._weights)
        value, grad = (t.to(self.X) for t in found)
        return (value[0], grad[0]) if self.single else (value, grad)

    def predict(self, x: Tensor, *, joint: bool = False, noisy: bool = False) -> Distribution:
        """The posterior at x (M', D) or (F, M', D); ``joint`` and ``noisy`` as in :meth:`GPRegression.predict`."""
        op = f"{type(self).__name__}.predict"
        mean, wide = self.mean(x), x.double()
        cross = posterior.cross_covariance(self.kernel, wide, self.inducing.double()).mT
        prior = torch.linalg.solve_triangular(self._outer, cross, upper=False)
        known = torch.linalg.solve_triangular(self._inner, prior, upper=False)
        variance, noise = posterior.own_variance(self.kernel, wide), self.noise * float(noisy)
        if not joint:
            left = variance - prior.square().sum(-2) + known.square().sum(-2) + noise
            return posterior.independent_normals(mean, left.expand(mean.shape), self.X.dtype)
        eye = torch.eye(x.shape[-2], dtype=torch.float64, device=x.device)
        left = posterior.own_covariance(self.kernel, wide) - prior.mT @ prior + known.mT @ known + noise * eye
        return posterior.joint_normal(op, mean, left, variance.mean(-1), self.X.dtype)

    def fit(
        self,
        steps: int = 200,
        lr: float = 0.1,
        *,
        fit_inducing: bool = True,
        fit_noise: bool = True,
        progress: bool = False,
    ) -> SparseGPRegression:
        """Maximizes the bound by Adam over a copy of the kernel's parameters, the inducing points and the noise.

        Args:
            steps: number of steps; the learning rate falls to 0.
            lr: learning rate of the first step.
            fit_inducing: whether inducing points move.
            fit_noise: whether the noise moves, on a logarithmic scale.
            progress: whether to show a progress bar.

        Returns:
            A new object. Its ``history`` holds the bound before each step: the sum of all functions' bounds.

        Raises:
            ValueError: a number is out of range, nothing is there to fit, or the bound of a step is not finite.
        """
        op = f"{type(self).__name__}.fit"
        kernel = copy.deepcopy(self.kernel)
        z = nn.Parameter(self.inducing.detach().double().clone(), requires_grad=fit_inducing)
        log_noise = posterior.log_parameter(op, self.noise).requires_grad_(fit_noise)

        def made() -> SparseGPRegression:
            noise = log_noise.exp() if fit_noise else self.noise.detach()
            return type(self)(self.X, self.y[0] if self.single else self.y, z.to(self.X), kernel, noise)

        parameters = [p for p in (z, log_noise, *kernel.parameters()) if p.requires_grad]
        history = posterior.maximize(op, lambda: made()._bound().sum(), parameters, steps, lr, progress)
        with torch.no_grad():
            found = made()
        found.inducing, found.history = found.inducing.detach(), history
        return found


def inducing_points(op: str, inducing: object, X: Tensor, seed: int) -> Tensor:
    """Checked points (M, D), or some of X (N, D)."""
    if not isinstance(inducing, Tensor):
        count = checks.integer(op, "inducing", inducing, 1, len(X), f"points (M, D), or a number from 1 to {len(X)}")
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        return X[order[:count].to(X.device)]
    if inducing.ndim != 2 or len(inducing) == 0 or inducing.shape[1] != X.shape[1]:
        raise ValueError(message(op, "inducing", f"shape (M, {X.shape[1]})", f"shape {tuple(inducing.shape)}"))
    if inducing.dtype != X.dtype:
        raise TypeError(message(op, "inducing", f"the dtype of 'X' ({X.dtype})", str(inducing.dtype)))
    checks.same_device(op, "inducing", inducing, X, "X")
    checks.finite(op, "inducing", inducing.detach())
    return inducing


def _noise(op: str, noise: float | Tensor, X: Tensor) -> Tensor:
    if not isinstance(noise, Tensor):
        checks.positive(op, "noise", noise, "GPRegression takes data without noise")
    found = torch.as_tensor(noise, dtype=torch.float64, device=X.device)
    if found.ndim or not bool(found > 0) or not bool(found.isfinite()):
        raise ValueError(message(op, "noise", "one positive number", checks.shown(noise)))
    return found
