"""Exact predictions of many Gaussian processes at once, each with data of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal

from .._core import checks
from .._core.errors import message
from ._cholesky import factor_or_raise
from ._posterior import independent_normals
from .kernel import as_kernel


def predict_each(
    kernel: object, X: Tensor, y: Tensor, x: Tensor, noise: float | Tensor = 0.01, *, noisy: bool = False
) -> Normal:
    """Predicts at ``x`` with Gaussian processes of zero mean, each given its own ``X`` and ``y``.

    The functions of :class:`GPRegression` share their points; here each of the B functions has its own. Everything is
    computed in float64, and the kernel is called for all functions at once.

    Args:
        kernel: see :func:`as_kernel`; it must take batches (B, N, D).
        X: (B, N, D) points, float32 or float64. N = 0 gives the prior.
        y: (B, N) values of the same dtype.
        x: (B, M, D) points of the predictions.
        noise: variance of the noise, a number >= 0, or (B,).
        noisy: whether to add the noise: the law of y at x instead of that of the function.

    Returns:
        A Normal of batch shape (B, M), in the dtype of X.

    Raises:
        TypeError, ValueError: a dtype, shape or number is wrong, or a kernel matrix has no Cholesky factor.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import RBF, predict_each
        >>> X, y = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]), torch.tensor([[1.0, 0.5], [0.0, -1.0]])
        >>> with torch.no_grad():
        ...     predict_each(RBF(), X, y, torch.tensor([[[0.5]], [[2.5]]]), noise=0.01).mean
        tensor([[ 0.8189],
                [-0.5459]])
    """
    op = "predict_each"
    _check(op, X, y, x)
    found = torch.as_tensor(noise, dtype=torch.float64, device=X.device)
    wrong = ~((found >= 0) & found.isfinite())
    if wrong.any():
        raise ValueError(message(op, "noise", "finite numbers >= 0", checks.offender(found, wrong)))
    if found.ndim and tuple(found.shape) != X.shape[:1]:
        raise ValueError(message(op, "noise", f"a number, or shape ({len(X)},)", f"shape {tuple(found.shape)}"))
    level = found.expand(len(X))[:, None]
    k, wide, at = as_kernel(kernel), X.double(), x.double()
    mean, variance = x.new_zeros(x.shape[:-1], dtype=torch.float64), k.diagonal(at)
    if X.shape[1]:
        eye = torch.eye(X.shape[1], dtype=torch.float64, device=X.device)
        factor = factor_or_raise(op, "X", k(wide) + level[..., None] * eye)
        right = torch.cat([k(wide, at), y.double()[..., None]], -1)
        solved = torch.linalg.solve_triangular(factor, right, upper=False)
        explained, weights = solved[..., :-1], solved[..., -1:]
        mean = (explained.mT @ weights)[..., 0]
        variance = variance - explained.square().sum(-2)
    return independent_normals(mean, variance + level * float(noisy), X.dtype)


def _check(op: str, X: Tensor, y: Tensor, x: Tensor) -> None:
    for name, value in (("X", X), ("y", y), ("x", x)):
        checks.wide_float_tensor(op, name, value, checks.AS_TENSOR)
        if value.dtype != X.dtype:
            raise TypeError(message(op, name, f"the dtype of 'X' ({X.dtype})", str(value.dtype)))
        checks.same_device(op, name, value, X, "X")
    if X.ndim != 3 or X.shape[0] == 0 or X.shape[2] == 0:
        raise ValueError(message(op, "X", "shape (B, N, D), B >= 1, D >= 1", f"shape {tuple(X.shape)}"))
    checks.shape(op, "y", y, X.shape[:2], "as 'X' has points")
    if x.ndim != 3 or x.shape[0] != X.shape[0] or x.shape[2] != X.shape[2]:
        expected = f"shape ({X.shape[0]}, M, {X.shape[2]})"
        raise ValueError(message(op, "x", expected, f"shape {tuple(x.shape)}"))
    for name, value in (("X", X), ("y", y)):
        checks.finite(op, name, value.detach())
