"""Distances of two distributions from samples of both, without a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


def _check(op: str, x: Tensor, y: Tensor, least: int = 1) -> None:
    for name, value in (("x", x), ("y", y)):
        checks.wide_float_tensor(op, name, value)
        if value.dim() != 2 or len(value) < least or not value.shape[1]:
            got = f"shape {tuple(value.shape)}"
            raise ValueError(message(op, name, f"samples (n, d), n >= {least} and d >= 1", got))
        checks.finite(op, name, value)
    if x.shape[1] != y.shape[1] or x.dtype is not y.dtype:
        got = f"{checks.describe(y)} beside {checks.describe(x)}"
        raise ValueError(message(op, "y", "samples of the dimension and dtype of 'x'", got))


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of two distributions; 0 only if they are equal.

    The estimate has no bias: a sample is not compared with itself. It can thus be slightly negative.

    Args:
        x: (n, d) samples, n >= 2, float32 or float64.
        y: (m, d) samples, m >= 2.

    Returns:
        0-d tensor, differentiable.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, there are too few samples, or they are not finite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import energy_distance
        >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]]))
        tensor(4.)
    """
    _check("energy_distance", x, y, 2)
    n, m = len(x), len(y)
    # exact differences: torch's expanded form loses the digits of close samples
    own = torch.pdist(x).mean() + torch.pdist(y).mean()
    return 2 * torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").sum() / (n * m) - own


def wasserstein_1d(x: Tensor, y: Tensor) -> Tensor:
    """The Wasserstein-1 distance of two sets of numbers, exactly: the area between their quantile functions.

    Of finite samples it is above that of their distributions, and positive even if these are equal.

    Args:
        x: (..., n) samples, float32 or float64.
        y: (..., m) samples; m may differ from n.

    Returns:
        (...) distances, differentiable.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or samples are not finite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import wasserstein_1d
        >>> wasserstein_1d(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor(1.)
    """
    op = "wasserstein_1d"
    for name, value in (("x", x), ("y", y)):
        checks.wide_float_tensor(op, name, value)
        if not value.dim() or not value.shape[-1]:
            raise ValueError(message(op, name, "one sample or more", f"shape {tuple(value.shape)}"))
        checks.finite(op, name, value)
    n, m = x.shape[-1], y.shape[-1]
    low, high = x.sort(-1).values, y.sort(-1).values
    if n == m:
        return (low - high).abs().mean(-1)
    steps = [torch.arange(1, count + 1, device=x.device) * other for count, other in ((n, m), (m, n))]
    levels = torch.cat(steps).unique()  # in units of 1 / (n m): where one of the quantile functions jumps
    widths = levels.diff(prepend=levels.new_zeros(1)).to(x) / (n * m)
    return ((low[..., (levels - 1) // m] - high[..., (levels - 1) // n]).abs() * widths).sum(-1)


def sliced_wasserstein(
    x: Tensor, y: Tensor, projections: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """The mean of exact Wasserstein-1 distances along random directions.

    Args:
        x: (n, d) samples, float32 or float64.
        y: (m, d) samples.
        projections: number of directions, uniform on the sphere.
        generator: of the directions.

    Returns:
        0-d tensor, differentiable.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or samples are not finite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import sliced_wasserstein
        >>> x = torch.zeros(3, 1)
        >>> sliced_wasserstein(x, x + 2)  # all directions of one dimension are alike
        tensor(2.)
    """
    _check("sliced_wasserstein", x, y)
    checks.integer("sliced_wasserstein", "projections", projections)
    directions = torch.randn(projections, x.shape[1], generator=generator, dtype=x.dtype, device=x.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    return wasserstein_1d(directions @ x.mT, directions @ y.mT).mean()
