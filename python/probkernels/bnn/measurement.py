"""Measurement sets: the points at which functions of two priors are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


def _check_points(op: str, name: str, x: Tensor) -> None:
    checks.wide_float_tensor(op, name, x, checks.AS_TENSOR)
    if x.dim() < 2 or 0 in x.shape:
        hint = "x[:, None] makes a column" if x.dim() == 1 and len(x) else "at least one measurement point is needed"
        raise ValueError(message(op, name, "points (N, D), N >= 1 and D >= 1", f"shape {tuple(x.shape)}", hint))
    checks.finite(op, name, x, "leave out rows with missing values")


class FixedPoints:
    """The same points in every iteration, such as a grid.

    Args:
        x: (M, D) points.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, there is no point, or points are not finite.

    Example:
        >>> import torch
        >>> from probkernels.bnn import FixedPoints
        >>> FixedPoints(torch.linspace(-6, 6, 200)[:, None])().shape
        torch.Size([200, 1])
    """

    def __init__(self, x: Tensor) -> None:
        _check_points("FixedPoints", "x", x)
        self.x = x

    def __call__(self, generator: torch.Generator | None = None) -> Tensor:
        """All points (M, D)."""
        return self.x


class TrainingSubset:
    """Random rows of the training inputs, other ones in every iteration.

    Args:
        x: (N, ...) training inputs.
        points: number of rows, at most N.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, inputs are not finite, or ``points`` is above N.

    Example:
        >>> import torch
        >>> from probkernels.bnn import TrainingSubset
        >>> TrainingSubset(torch.randn(1000, 2), points=256)().shape
        torch.Size([256, 2])
    """

    def __init__(self, x: Tensor, points: int = 256) -> None:
        _check_points("TrainingSubset", "x", x)
        checks.integer("TrainingSubset", "points", points, 1, len(x))
        self.x, self.points = x, points

    def __call__(self, generator: torch.Generator | None = None) -> Tensor:
        """Rows (points, ...)."""
        return self.x[torch.randperm(len(self.x), generator=generator, device=self.x.device)[: self.points]]


class TrainingAndBox:
    """Random training inputs, and points that are uniform in the box around all inputs.

    Args:
        x: (N, D) training inputs.
        points: number of points.
        share: of training inputs among the points, in [0, 1].
        others: (N', D) further inputs that the box contains too, such as those of a test set; None for none.

    Raises:
        TypeError, ValueError: a dtype, shape or number is wrong, inputs are not finite, or there are fewer training
            inputs than wanted.

    Example:
        >>> import torch
        >>> from probkernels.bnn import TrainingAndBox
        >>> TrainingAndBox(torch.randn(400, 13), points=100, share=0.7)().shape
        torch.Size([100, 13])
    """

    def __init__(self, x: Tensor, points: int = 100, share: float = 0.7, others: Tensor | None = None) -> None:
        op = "TrainingAndBox"
        _check_points(op, "x", x)
        checks.integer(op, "points", points)
        checks.unit_interval(op, "share", share)
        self.x, self.count = x, round(share * points)
        self.uniform = points - self.count
        if self.count > len(x):
            expected = f"at most {len(x)} training inputs, as many as there are"
            raise ValueError(message(op, "points", expected, str(self.count), "lower points or share"))
        if others is not None:
            _check_points(op, "others", others)
            checks.shape(op, "others", others, (len(others), *x.shape[1:]), "(N', D), as 'x'")
            checks.same_device(op, "others", others, x, "x")
        inside = x if others is None else torch.cat([x, others.to(x)])
        self.low, self.high = inside.amin(0), inside.amax(0)

    def __call__(self, generator: torch.Generator | None = None) -> Tensor:
        """Points (points, D)."""
        rows = torch.randperm(len(self.x), generator=generator, device=self.x.device)[: self.count]
        shape = (self.uniform, *self.x.shape[1:])
        inner = torch.rand(shape, generator=generator, dtype=self.x.dtype, device=self.x.device)
        return torch.cat([self.x[rows], self.low + inner * (self.high - self.low)])
