"""Pairs of poor and good designs, made from functions that agree with the offline data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..kernel_methods import GPPosteriorMean
from ..kernel_methods.gp_regression import check_data


@dataclass
class Pairs:
    """Pairs of designs (P, D) and their scores (P,) under the function that made each of them.

    Example:
        >>> from probkernels.blackbox import Pairs
        >>> list(Pairs.__dataclass_fields__)
        ['x_low', 'x_high', 'y_low', 'y_high']
    """

    x_low: Tensor
    x_high: Tensor
    y_low: Tensor
    y_high: Tensor

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.x_low)


@torch.no_grad()
def synthetic_pairs(
    X: Tensor,
    y: Tensor,
    *,
    functions: int = 8,
    starts: int = 1024,
    points: int | None = None,
    steps: int = 100,
    step_size: float = 0.001,
    lengthscale: float = 1.0,
    variance: float = 1.0,
    spread: float = 0.25,
    noise: float = 0.01,
    min_gain: float = 0.001,
    generator: torch.Generator | None = None,
) -> Pairs:
    """Makes pairs of poor and good designs for many functions that fit the data.

    Each function is the posterior mean of a Gaussian process with its own random lengthscale and variance. From the
    best designs, gradient descent and ascent on it give the two ends of a pair.

    Args:
        X: (N, D) designs, normalized, float32 or float64.
        y: (N,) scores, normalized; higher is better.
        functions: number of functions.
        starts: number of best designs to start from, at most N.
        points: number of random designs that the functions are fitted to; None for all.
        steps: gradient steps in each direction.
        step_size: size of a gradient step.
        lengthscale: center of the uniform draw of lengthscales.
        variance: center of the uniform draw of variances.
        spread: half the width of both draws, below both centers.
        noise: variance of the noise of the scores.
        min_gain: pairs whose scores differ by less are left out.
        generator: generator of the draws, on the CPU.

    Returns:
        The pairs of all functions; at most functions * starts.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, a number is not finite or out of range, or a step left the
            range of numbers.

    Reference:
        Dao et al., ROOT, NeurIPS 2025.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import synthetic_pairs
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> pairs = synthetic_pairs(X, -X[:, 0] ** 2, functions=2, starts=5, step_size=0.05)
        >>> pairs.x_low.shape, bool((pairs.y_high > pairs.y_low).all())
        (torch.Size([10, 1]), True)
    """
    op = "synthetic_pairs"
    for name, count in (("functions", functions), ("starts", starts), ("steps", steps)):
        checks.integer(op, name, count)
    check_data(op, X, y)
    checks.shape(op, "y", y, (len(X),), "of one score for each design")
    if points is not None:
        checks.integer(op, "points", points)
    for name, value in (("step_size", step_size), ("lengthscale", lengthscale), ("variance", variance)):
        checks.positive(op, name, value)
    checks.number(op, "min_gain", min_gain)
    checks.non_negative(op, "spread", spread)
    if spread >= min(lengthscale, variance):
        expected = f"a number below lengthscale and variance ({min(lengthscale, variance):g})"
        raise ValueError(message(op, "spread", expected, repr(spread)))
    draws = 2 * torch.rand(2, functions, generator=generator, dtype=torch.float64) - 1
    scales, variances = lengthscale + spread * draws[0], variance + spread * draws[1]
    rows = torch.arange(len(X))
    if points is not None and points < len(X):
        rows = torch.randperm(len(X), generator=generator)[:points]
    rows = rows.to(X.device)
    gp = GPPosteriorMean(X[rows], y[rows], scales.to(X.device), variances.to(X.device), noise)
    best = X[y.topk(min(starts, len(y))).indices]
    low = best.expand(functions, -1, -1)
    ends = torch.cat([low, low], 1)  # both directions in one evaluation
    sign = torch.ones(2 * len(best), 1, dtype=X.dtype, device=X.device)
    sign[: len(best)] = -1
    for _ in range(steps):
        ends = ends + step_size * sign * gp.value_and_grad(ends)[1]
    values = gp.mean(ends)
    if not ends.isfinite().all():
        hint = "lower the step size, or normalize X and y"
        raise ValueError(message(op, "step_size", "steps that stay finite", repr(step_size), hint))
    (x_low, x_high), (y_low, y_high) = ends.chunk(2, 1), values.chunk(2, 1)
    kept = y_high - y_low > min_gain
    return Pairs(x_low[kept], x_high[kept], y_low[kept], y_high[kept])
