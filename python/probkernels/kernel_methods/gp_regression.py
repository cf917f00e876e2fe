"""Exact regression with Gaussian processes of zero mean, batched over functions."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from .._core import checks
from .._core.errors import message
from ._cholesky import factorize
from ._posterior import (
    check_points,
    cross_covariance,
    independent_normals,
    joint_normal,
    kernel_sums,
    kernel_sums_and_grad,
    log_parameter,
    maximize,
    own_covariance,
    own_variance,
)
from .kernel import as_kernel
from .rbf import rbf_kernel, rbf_mean

ENTRIES = 2**24  # of kernel matrices that are factorized at once


class GPPosteriorMean:
    """Posterior means of Gaussian processes, with gradients, batched over functions.

    Functions share the points X and may differ in y and in hyperparameters. The solve runs in float64 with one factor
    at a time; only the weights (K + noise I)^-1 y are kept. A matrix that is not positive definite in float64 gets a
    small multiple of the identity, at most 1e-6 of its diagonal: see ``jitter``.

    Args:
        X: (N, D) points, float32 or float64. Equal points are allowed; without noise they need equal y.
        y: (N,) values, or (F, N).
        lengthscale: positive number, or (F,).
        variance: positive number, or (F,).
        noise: variance of the noise, a number >= 0, or (F,).

    Attributes:
        weights: (F, N), or (N,) for one function.
        jitter: (F,) what was added to the diagonal; 0 where nothing was needed.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, a number is not finite or out of range, or a kernel matrix
            cannot be factorized.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GPPosteriorMean
        >>> X, y = torch.tensor([[-1.0], [0.0], [2.0]]), torch.tensor([-0.5, 0.3, 1.0])
        >>> gp = GPPosteriorMean(X, y, lengthscale=1.0, variance=1.0, noise=0.01)
        >>> value, grad = gp.value_and_grad(torch.tensor([[0.5]]))
        >>> value, grad
        (tensor([0.6441]), tensor([[0.5726]]))
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        lengthscale: float | Tensor = 1.0,
        variance: float | Tensor = 1.0,
        noise: float | Tensor = 0.01,
    ) -> None:
        op = type(self).__name__
        check_data(op, X, y)
        given = {"lengthscale": lengthscale, "variance": variance, "noise": noise}
        hyper = {name: _hyperparameter(op, name, value, X) for name, value in given.items()}
        counts = {name: len(t) for name, t in {"y": y, **hyper}.items() if t.ndim == (2 if name == "y" else 1)}
        functions = max(counts.values(), default=1)
        for name, count in counts.items():
            if count not in (1, functions):
                raise ValueError(message(op, name, f"1 or {functions} functions, as others have", str(count)))
        self.single = not counts
        self.X, self.y = X, y.expand(functions, -1)
        sets = max((len(hyper[name]) for name in given if hyper[name].ndim), default=1)
        self._hyper = tuple(hyper[name].expand(sets) for name in given)  # (1,) each, or (F,)
        self.lengthscale, self.variance, self.noise = (t.expand(functions) for t in self._hyper)
        self._solve(op)

    def _solve(self, op: str) -> None:
        at_once = max(1, ENTRIES // len(self.X) ** 2)
        y, sets = self.y.double(), len(self._hyper[0])
        weights, jitter = [], []
        for first in range(0, sets, at_once):
            some = slice(first, first + at_once)
            factor, added = self._factorize(op, *(t[some] for t in self._hyper))
            # one kernel matrix serves all functions, or each has its own
            found = torch.cholesky_solve(y.mT[None], factor)[0].mT if sets == 1 else _solve_each(y[some], factor)
            weights.append(found)
            jitter.append(added)
            self._keep(factor)
        self.jitter = torch.cat(jitter).expand(len(y))
        self._weights = torch.cat(weights)

    def _factorize(self, op: str, lengthscale: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factors (f, N, N) of kernel matrices with noise, and the jitter (f,) that they needed."""
        kernel = self._own_kernel(lengthscale[:, None, None], variance[:, None, None])
        eye = torch.eye(len(self.X), dtype=torch.float64, device=self.X.device)
        factor, jitter, failed = factorize(kernel + noise[:, None, None] * eye)
        if not failed.any():
            return factor, jitter
        bad = int(failed.nonzero()[0])
        got = f"function {bad} of {len(failed)}: {self._described(lengthscale[bad], variance[bad])}"
        hint = "raise noise; a variance far above the noise leaves no digits"
        raise ValueError(message(op, "X", "a positive definite kernel matrix", got, hint))

    def _own_kernel(self, lengthscale: Tensor, variance: Tensor) -> Tensor:
        """k(X, X) in float64, (f, N, N)."""
        X = self.X.double()
        return rbf_kernel(X, X, lengthscale, variance)

    def _described(self, lengthscale: Tensor, variance: Tensor) -> str:
        return f"lengthscale {lengthscale:g}, variance {variance:g}"

    def _keep(self, factor: Tensor) -> None:
        """Receives the Cholesky factors (f, N, N) of the next functions."""

    @property
    def weights(self) -> Tensor:
        """(F, N), or (N,) for one function: the coefficients of the kernels in the posterior mean."""
        found = self._weights.to(self.X)
        return found[0] if self.single else found

    def mean(self, x: Tensor) -> Tensor:
        """The posterior mean at x (M, D) or (F, M, D): (F, M), or (M,) for one function."""
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean (F, M) and its gradient (F, M, D) at x (M, D) or (F, M, D). No F for one function."""
        scale, variance = (t.to(self.X) for t in (self.lengthscale, self.variance))
        return rbf_mean(x, self.X, self.weights, scale, variance)


class GPRegression(GPPosteriorMean):
    """Exact GP regression with any kernel: posterior means and variances, log evidence, fit of hyperparameters.

    Without ``kernel`` the kernel is RBF, and functions may differ in ``lengthscale`` and ``variance``. A ``kernel`` is
    shared by all functions, which then share one Cholesky factor too, unless their noise differs. Everything is
    computed in float64 and returned in the dtype of X. One point is enough (N = 1); N = 0 is a ValueError.

    Keeps the Cholesky factors: 8 N^2 bytes, or 8 F N^2 if functions differ in hyperparameters. If a hyperparameter or a
    parameter of the kernel requires a gradient, the results carry it.

    Args:
        X: (N, D) points, float32 or float64.
        y: (N,) values, or (F, N).
        lengthscale: positive number, or (F,); None for 1. Not beside ``kernel``.
        variance: positive number, or (F,); None for 1. Not beside ``kernel``.
        noise: variance of the noise, a number >= 0, or (F,).
        kernel: a :class:`Kernel`, a callable or a gpytorch kernel, see :func:`as_kernel`; None for the RBF kernel.

    Attributes:
        cholesky: (1, N, N), or (F, N, N): factors of k(X, X) + noise I, float64.
        history: of an object that :meth:`fit_hyperparameters` made, the evidence before each step; else empty.

    Raises:
        TypeError, ValueError: as for :class:`GPPosteriorMean`; or a kernel comes beside lengthscale or variance, or
            does not give a matrix (N, N).

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF, GPRegression
        >>> X, y = torch.tensor([[-1.0], [0.0], [2.0]]), torch.tensor([-0.5, 0.3, 1.0])
        >>> gp = GPRegression(X, y, lengthscale=1.0, variance=1.0, noise=0.01)
        >>> gp.predict(torch.tensor([[0.0], [50.0]])).stddev
        tensor([0.0992, 1.0000])
        >>> gp.log_evidence()
        tensor(-3.3366)
        >>> linear = GPRegression(X, y, kernel=lambda x, z: 1 + x @ z.mT, noise=0.01)
        >>> linear.predict(torch.tensor([[1.0]]), noisy=True).mean
        tensor([0.5847])
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        lengthscale: float | Tensor | None = None,
        variance: float | Tensor | None = None,
        noise: float | Tensor = 0.01,
        *,
        kernel: object = None,
    ) -> None:
        op = type(self).__name__
        self.kernel = None if kernel is None else as_kernel(kernel)
        self.history: list[float] = []
        given = [name for name, value in (("lengthscale", lengthscale), ("variance", variance)) if value is not None]
        if kernel is not None and given:
            hint = f"give {given[0]} to the kernel"
            raise ValueError(message(op, given[0], "None beside a kernel", "both", hint))
        lengthscale = 1.0 if lengthscale is None else lengthscale
        super().__init__(X, y, lengthscale, 1.0 if variance is None else variance, noise)

    def _own_kernel(self, lengthscale: Tensor, variance: Tensor) -> Tensor:
        if self.kernel is None:
            return super()._own_kernel(lengthscale, variance)
        found = self.kernel(self.X.double())
        if tuple(found.shape) != (len(self.X),) * 2:
            expected = f"a kernel matrix of shape ({len(self.X)}, {len(self.X)})"
            raise ValueError(message(type(self).__name__, "kernel", expected, f"shape {tuple(found.shape)}"))
        return found[None]

    def _described(self, lengthscale: Tensor, variance: Tensor) -> str:
        return super()._described(lengthscale, variance) if self.kernel is None else type(self.kernel).__name__

    def _solve(self, op: str) -> None:
        self._factors: list[Tensor] = []
        super()._solve(op)
        self.cholesky = torch.cat(self._factors)
        del self._factors

    def _keep(self, factor: Tensor) -> None:
        self._factors.append(factor)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean (F, M) and its gradient (F, M, D) at x (M, D) or (F, M, D). No F for one function."""
        if self.kernel is None:
            return super().value_and_grad(x)
        check_points(type(self).__name__, x, self.X, len(self.y))
        found = kernel_sums_and_grad(self.kernel, x.double(), self.X.double(), self._weights)
        value, grad = (t.to(self.X) for t in found)
        return (value[0], grad[0]) if self.single else (value, grad)

    def mean(self, x: Tensor) -> Tensor:
        """The posterior mean at x (M, D) or (F, M, D): (F, M), or (M,) for one function."""
        if self.kernel is None:
            return super().mean(x)
        check_points(type(self).__name__, x, self.X, len(self.y))
        found = kernel_sums(self.kernel, x.double(), self.X.double(), self._weights).to(self.X)
        return found[0] if self.single else found

    def predict(self, x: Tensor, *, joint: bool = False, noisy: bool = False) -> Distribution:
        """The posterior of the function values at x (M, D) or (F, M, D).

        Args:
            x: points.
            joint: False for a Normal of each value: mean and stddev (F, M), or (M,) for one function. True for the
                MultivariateNormal of all M values, with batch shape (F,) or ().
            noisy: whether to add the noise: the law of y at x instead of that of the function.

        Raises:
            ValueError: the shape of x is wrong, or the joint covariance has no Cholesky factor.
        """
        op = f"{type(self).__name__}.predict"
        check_points(op, x, self.X, len(self.y))
        mean, wide = self.mean(x), x.double()
        solved = torch.linalg.solve_triangular(self.cholesky, self._prior(wide).mT, upper=False)
        variance, noise = self._prior_variance(wide), self._hyper[2] * float(noisy)
        if not joint:
            left = (variance - solved.square().sum(-2) + noise[:, None]).expand(len(self.y), -1)
            return independent_normals(mean, left[0] if self.single else left, self.X.dtype)
        eye = torch.eye(x.shape[-2], dtype=torch.float64, device=x.device)
        left = self._prior_covariance(wide) - solved.mT @ solved + noise[:, None, None] * eye
        scale = variance.mean(-1).expand(left.shape[:-2])
        return joint_normal(op, mean, *((left[0], scale[0]) if self.single else (left, scale)), self.X.dtype)

    def _rbf(self, x: Tensor, z: Tensor) -> Tensor:
        return rbf_kernel(x, z, *(t[:, None, None] for t in self._hyper[:2]))

    def _prior(self, x: Tensor) -> Tensor:
        """k(x, X) in float64, (..., M, N)."""
        X = self.X.double()
        return self._rbf(x, X) if self.kernel is None else cross_covariance(self.kernel, x, X)

    def _prior_covariance(self, x: Tensor) -> Tensor:
        return self._rbf(x, x) if self.kernel is None else own_covariance(self.kernel, x)

    def _prior_variance(self, x: Tensor) -> Tensor:
        if self.kernel is None:
            return self._hyper[1][:, None].expand(-1, x.shape[-2])
        return own_variance(self.kernel, x)

    def log_evidence(self) -> Tensor:
        """log p(y | X) of every function, (F,), or () for one function; natural logarithm."""
        found = self._log_evidence()
        return (found[0] if self.single else found).to(self.X)

    def _log_evidence(self) -> Tensor:
        y = self.y.double()
        shared = len(self.cholesky) == 1
        right = y.mT[None] if shared else y[..., None]
        solved = torch.linalg.solve_triangular(self.cholesky, right, upper=False).square().sum(-2)
        half_log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -solved.flatten() / 2 - half_log_det - len(self.X) / 2 * math.log(2 * math.pi)

    def fit_hyperparameters(
        self, steps: int = 200, lr: float = 0.1, *, fit_noise: bool = True, progress: bool = False
    ) -> GPRegression:
        """Maximizes the log evidence over the hyperparameters by Adam, from those of this object on.

        Positive hyperparameters move on a logarithmic scale. Each function has its own where this object has: pass
        ``lengthscale`` or ``noise`` of shape (F,) for that. Parameters of a kernel are those that require a gradient;
        they move in a copy of the kernel. Nothing is drawn: the same data give the same fit.

        Args:
            steps: number of steps; each costs a factorization, and the learning rate falls to 0.
            lr: learning rate of the first step.
            fit_noise: whether the noise moves too. Noise 0 cannot.
            progress: whether to show a progress bar.

        Returns:
            A new object with the hyperparameters found, and the evidence of every step in ``history``: that of all
            functions together.

        Raises:
            ValueError: a number is out of range, nothing is there to fit, or the evidence of a step is not finite.

        Example:
            >>> import torch
            >>> from probkernels.kernel_methods import GPRegression
            >>> X = torch.linspace(0, 6, 20)[:, None]
            >>> fitted = GPRegression(X, X.sin()[:, 0], noise=0.1).fit_hyperparameters(50)
            >>> bool(fitted.log_evidence() > fitted.history[0])
            True
        """
        op = f"{type(self).__name__}.fit_hyperparameters"
        kernel = copy.deepcopy(self.kernel)
        noise, logs = self._hyper[2].detach(), []
        if fit_noise:
            noise = log_parameter(op, noise)
            logs.append(noise)
        if kernel is None:
            logs += [log_parameter(op, t) for t in self._hyper[:2]]

        def made() -> GPRegression:
            level = _given(noise.exp() if fit_noise else noise)
            if kernel is not None:
                return type(self)(self.X, y, noise=level, kernel=kernel)
            lengthscale, variance = (_given(t.exp()) for t in logs[-2:])
            return type(self)(self.X, y, lengthscale, variance, level)

        y = self.y[0] if self.single else self.y
        parameters = [*logs, *(p for p in (kernel.parameters() if kernel else ()) if p.requires_grad)]
        history = maximize(op, lambda: made()._log_evidence().sum(), parameters, steps, lr, progress)
        with torch.no_grad():
            found = made()
        found.history = history
        return found


def _given(values: Tensor) -> Tensor:
    """A hyperparameter (1,) or (F,) as users give it: () or (F,)."""
    return values[0] if len(values) == 1 else values


def _solve_each(y: Tensor, factor: Tensor) -> Tensor:
    """The weights (f, N) of values (f, N), each with its own factor (f, N, N)."""
    return torch.cholesky_solve(y[..., None], factor)[..., 0]


def _hyperparameter(op: str, name: str, value: float | Tensor, X: Tensor) -> Tensor:
    """A checked hyperparameter: float64, () or (F,)."""
    if not isinstance(value, Tensor):
        (checks.non_negative if name == "noise" else checks.positive)(op, name, value)
    found = torch.as_tensor(value, dtype=torch.float64, device=X.device)
    if found.ndim > 1:
        raise ValueError(message(op, name, "a number, or shape (F,)", f"shape {tuple(found.shape)}"))
    wrong = ~found.isfinite() | (found < 0 if name == "noise" else found <= 0)
    if wrong.any():
        expected = "finite numbers " + (">= 0" if name == "noise" else "> 0")
        raise ValueError(message(op, name, expected, checks.offender(found, wrong)))
    return found


def check_data(op: str, X: Tensor, y: Tensor, name_y: str = "y") -> None:
    """Checks points (N, D) and values (N,) or (F, N)."""
    for name, value in (("X", X), (name_y, y)):
        checks.wide_float_tensor(op, name, value, checks.AS_TENSOR)
        checks.finite(op, name, value.detach())
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(message(op, "X", "shape (N, D), N >= 1, D >= 1", f"shape {tuple(X.shape)}"))
    if y.dtype != X.dtype:
        raise TypeError(message(op, name_y, f"the dtype of 'X' ({X.dtype})", str(y.dtype)))
    if y.ndim not in (1, 2) or y.shape[-1] != len(X):
        hint = "y.squeeze(-1) makes (N,) of (N, 1)" if tuple(y.shape) == (len(X), 1) else ""
        got = f"shape {tuple(y.shape)}"
        raise ValueError(message(op, name_y, f"shape ({len(X)},) or (F, {len(X)})", got, hint))
    checks.same_device(op, name_y, y, X, "X")
