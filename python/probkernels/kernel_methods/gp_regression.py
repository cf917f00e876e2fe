"""Exact regression with Gaussian processes of zero mean and RBF kernel, batched over functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._cholesky import factorize
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
        self.lengthscale, self.variance, self.noise = (hyper[name].expand(functions) for name in given)
        self._solve(op)

    def _solve(self, op: str) -> None:
        at_once = max(1, ENTRIES // len(self.X) ** 2)
        hyper = zip(*(t.split(at_once) for t in (self.y, self.lengthscale, self.variance, self.noise)), strict=True)
        weights, jitter = [], []
        for y, lengthscale, variance, noise in hyper:
            factor, added = _factorize(op, self.X.double(), lengthscale, variance, noise)
            weights.append(torch.cholesky_solve(y.double()[..., None], factor)[..., 0].to(self.X))
            jitter.append(added)
            self._keep(factor)
        self.jitter = torch.cat(jitter)
        self._weights = torch.cat(weights)

    def _keep(self, factor: Tensor) -> None:
        """Receives the Cholesky factors (f, N, N) of the next functions."""

    @property
    def weights(self) -> Tensor:
        """(F, N), or (N,) for one function: the coefficients of the kernels in the posterior mean."""
        return self._weights[0] if self.single else self._weights

    def mean(self, x: Tensor) -> Tensor:
        """The posterior mean at x (M, D) or (F, M, D): (F, M), or (M,) for one function."""
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean (F, M) and its gradient (F, M, D) at x (M, D) or (F, M, D). No F for one function."""
        scale, variance = (t.to(self.X) for t in (self.lengthscale, self.variance))
        return rbf_mean(x, self.X, self.weights, scale, variance)


class GPRegression(GPPosteriorMean):
    """Exact GP regression: posterior means and variances, and the log evidence.

    Keeps the Cholesky factors, 8 F N^2 bytes. Arguments and errors are those of :class:`GPPosteriorMean`. If a
    hyperparameter requires a gradient, the results carry it: maximize ``log_evidence()`` to fit hyperparameters, with a
    new object in each step.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import GPRegression
        >>> X, y = torch.tensor([[-1.0], [0.0], [2.0]]), torch.tensor([-0.5, 0.3, 1.0])
        >>> gp = GPRegression(X, y, lengthscale=1.0, variance=1.0, noise=0.01)
        >>> gp.predict(torch.tensor([[0.0], [50.0]])).stddev
        tensor([0.0992, 1.0000])
        >>> gp.log_evidence()
        tensor(-3.3366)
    """

    def _solve(self, op: str) -> None:
        self._factors: list[Tensor] = []
        super()._solve(op)
        self.cholesky = torch.cat(self._factors)  # (F, N, N), float64
        del self._factors

    def _keep(self, factor: Tensor) -> None:
        self._factors.append(factor)

    def predict(self, x: Tensor) -> torch.distributions.Normal:
        """The posterior of the function values, without noise, at x (M, D) or (F, M, D). Points are independent in it.

        Its mean and stddev have shape (F, M), or (M,) for one function.
        """
        mean = self.mean(x)
        lengthscale, variance = self.lengthscale[:, None, None], self.variance[:, None, None]
        cross = rbf_kernel(self.X.double().expand(1, -1, -1), x.double(), lengthscale, variance)
        solved = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
        left = (variance[:, 0] - solved.square().sum(-2)).clamp(min=torch.finfo(torch.float64).tiny)  # for the root
        stddev = left.sqrt().to(self.X).clamp(min=torch.finfo(self.X.dtype).tiny)  # a Normal needs more than 0
        return torch.distributions.Normal(mean, stddev[0] if self.single else stddev)

    def log_evidence(self) -> Tensor:
        """log p(y | X) of every function, (F,), or () for one function; natural logarithm."""
        solved = torch.linalg.solve_triangular(self.cholesky, self.y.double()[..., None], upper=False)[..., 0]
        half_log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        found = -solved.square().sum(-1) / 2 - half_log_det - len(self.X) / 2 * math.log(2 * math.pi)
        return (found[0] if self.single else found).to(self.X)


def _factorize(op: str, X: Tensor, lengthscale: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors (f, N, N) of kernel matrices with noise, and the jitter (f,) that they needed."""
    kernel = rbf_kernel(X, X, lengthscale[:, None, None], variance[:, None, None])
    eye = torch.eye(len(X), dtype=X.dtype, device=X.device)
    factor, jitter, failed = factorize(kernel + noise[:, None, None] * eye)
    if not failed.any():
        return factor, jitter
    bad = int(failed.nonzero()[0])
    got = f"function {bad} of {len(failed)}: lengthscale {lengthscale[bad]:g}, variance {variance[bad]:g}"
    hint = "raise noise; a variance far above the noise leaves no digits"
    raise ValueError(message(op, "X", "a positive definite kernel matrix", got, hint))


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


def check_data(op: str, X: Tensor, y: Tensor) -> None:
    """Checks points (N, D) and values (N,) or (F, N)."""
    for name, value in (("X", X), ("y", y)):
        checks.wide_float_tensor(op, name, value, checks.AS_TENSOR)
        checks.finite(op, name, value.detach())
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(message(op, "X", "shape (N, D)", f"shape {tuple(X.shape)}"))
    if y.dtype != X.dtype:
        raise TypeError(message(op, "y", f"the dtype of 'X' ({X.dtype})", str(y.dtype)))
    if y.ndim not in (1, 2) or y.shape[-1] != len(X):
        hint = "y.squeeze(-1) makes (N,) of (N, 1)" if tuple(y.shape) == (len(X), 1) else ""
        got = f"shape {tuple(y.shape)}"
        raise ValueError(message(op, "y", f"shape ({len(X)},) or (F, {len(X)})", got, hint))
    checks.same_device(op, "y", y, X, "X")
