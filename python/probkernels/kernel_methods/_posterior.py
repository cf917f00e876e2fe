"""What all regressions with kernels share: sums of kernels with gradients, predictive distributions, fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from .._core import checks
from .._core.errors import message
from ..training import cosine, minimize
from ._cholesky import factor_or_raise
from .kernel import Kernel

ENTRIES = 2**22  # of a block of a kernel matrix between new points and those of the data


def cross_covariance(kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
    """k(x, z) with x (M, D) or (F, M, D), z (N, D): (M, N) or (F, M, N)."""
    return kernel(x.reshape(-1, x.shape[-1]), z).reshape(*x.shape[:-1], len(z))


def own_covariance(kernel: Kernel, x: Tensor) -> Tensor:
    """k(x, x) with x (M, D) or (F, M, D): (M, M) or (F, M, M)."""
    return kernel(x) if x.ndim == 2 else torch.stack([kernel(one) for one in x])


def own_variance(kernel: Kernel, x: Tensor) -> Tensor:
    """The diagonal of k(x, x) with x (M, D) or (F, M, D): (M,) or (F, M)."""
    return kernel.diagonal(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1])


def kernel_sums(kernel: Kernel, x: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """sum_i weights[f, i] k(x, points[i]) with x (M, D) or (F, M, D), weights (F, N): (F, M), block by block."""
    found = []
    for rows in x.split(max(1, ENTRIES // (len(points) * x.shape[:-2].numel())), -2):
        block = cross_covariance(kernel, rows, points)
        found.append(weights @ block.mT if x.ndim == 2 else (block @ weights[..., None])[..., 0])
    return torch.cat(found, 1)


def kernel_sums_and_grad(kernel: Kernel, x: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`kernel_sums` (F, M) and their gradients with respect to x (F, M, D), by autograd.

    Both carry gradients where x, the weights or the kernel require one.
    """
    carry = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weights, *kernel.parameters()))
    with torch.enable_grad():
        x = x if carry and x.requires_grad else x.detach().requires_grad_()
        value = kernel_sums(kernel, x, points, weights)
        outputs = value if x.ndim == 2 else [value]  # functions with points of their own do not meet
        grads = [
            torch.autograd.grad(v.sum(), x, retain_graph=True, create_graph=carry, materialize_grads=True)[0]
            for v in outputs
        ]
    grad = torch.stack(grads) if x.ndim == 2 else grads[0]
    return (value, grad) if carry else (value.detach(), grad.detach())


def independent_normals(mean: Tensor, variance: Tensor, dtype: torch.dtype) -> Normal:
    """A Normal for each mean, in ``dtype``; NaN at points with NaN. Rounding may leave variances <= 0; they become the
    least positive one."""
    stddev = variance.clamp(min=torch.finfo(torch.float64).tiny).sqrt()  # clamped first: the root has no slope at 0
    return Normal(mean.to(dtype), stddev.to(dtype).clamp(min=torch.finfo(dtype).tiny), validate_args=False)


def joint_normal(op: str, mean: Tensor, covariance: Tensor, scale: Tensor, dtype: torch.dtype) -> MultivariateNormal:
    """The joint law of function values: mean (..., M), covariance (..., M, M), jitter in shares of ``scale`` (...)."""
    factor = factor_or_raise(op, "x", covariance, scale, "the kernel may be no covariance: look at its eigenvalues")
    factor = factor.to(dtype)
    shape = torch.broadcast_shapes(mean.shape[:-1], factor.shape[:-2])
    tril = factor.expand(*shape, *factor.shape[-2:])
    return MultivariateNormal(mean.to(dtype).expand(*shape, -1), scale_tril=tril)


def check_points(op: str, x: object, like: Tensor, functions: int) -> None:
    """Checks points of a prediction: (M, D), or (F, M, D) for F functions."""
    checks.wide_float_tensor(op, "x", x, checks.AS_TENSOR)
    assert isinstance(x, Tensor)
    fits = x.ndim == 2 or (x.ndim == 3 and len(x) == functions)
    if not fits or x.shape[-1] != like.shape[-1]:
        expected = f"shape (M, {like.shape[-1]})" + (f" or ({functions}, M, {like.shape[-1]})" if functions > 1 else "")
        raise ValueError(message(op, "x", expected, f"shape {tuple(x.shape)}"))
    if x.dtype != like.dtype:
        raise TypeError(message(op, "x", f"the dtype of 'X' ({like.dtype})", str(x.dtype)))
    checks.same_device(op, "x", x, like, "X")


def log_parameter(op: str, noise: Tensor) -> nn.Parameter:
    """The logarithm of a positive hyperparameter, to be trained."""
    if (noise <= 0).any():
        raise ValueError(message(op, "noise", "numbers > 0 to start from", "0", "fit_noise=False keeps it"))
    return nn.Parameter(noise.detach().log())


def maximize(
    op: str, objective: Callable[[], Tensor], parameters: Sequence[Tensor], steps: int, lr: float, progress: bool
) -> list[float]:
    """Maximizes by Adam with a learning rate that falls to 0; returns the objective before each step."""
    if not parameters:
        raise ValueError(message(op, "kernel", "parameters that require a gradient", "none", "or let the noise move"))
    checks.integer(op, "steps", steps)
    checks.positive(op, "lr", lr)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        losses = minimize(lambda _: -objective(), optimizer, steps, lr_schedule=cosine, progress=progress, name=op)
    return [-loss for loss in losses]
