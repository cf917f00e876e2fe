"""Step sizes of EM as functions of the fraction of training done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._core import checks
from .._core.errors import message

Schedule = Callable[[float], float]  # of the part of the training that is done, in [0, 1)


@dataclass(frozen=True)
class PiecewiseLinear:
    """A step size that is linear between points (fraction of training done, step).

    Args:
        points: pairs (fraction, step) with rising fractions from 0 to 1 and steps in (0, 1].

    Raises:
        ValueError: the points are not in order or do not start at 0 and end at 1, or a step is outside (0, 1].

    Example:
        >>> from probkernels.circuits import PiecewiseLinear
        >>> steps = PiecewiseLinear(((0.0, 0.8), (0.5, 0.1), (1.0, 0.01)))
        >>> round(steps(0.25), 3), round(steps(0.75), 3)
        (0.45, 0.055)
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        parts = [part for part, _ in self.points]
        if len(parts) < 2 or parts != sorted(parts) or parts[0] != 0 or parts[-1] != 1:
            raise ValueError(message("PiecewiseLinear", "points", "parts that rise from 0 to 1", repr(parts)))
        for _, step in self.points:
            checks.positive_fraction("PiecewiseLinear", "points", step)

    def __call__(self, done: float) -> float:
        """The step at a fraction of the training, in [0, 1]."""
        for (left, start), (right, end) in zip(self.points, self.points[1:], strict=False):
            if done < right:
                return start + (end - start) * (done - left) / (right - left)
        return self.points[-1][1]


@dataclass(frozen=True)
class Constant:
    """A constant step size."""

    step: float

    def __call__(self, done: float) -> float:
        """The step."""
        return self.step


ANNEALED = PiecewiseLinear(((0.0, 0.8), (0.5, 0.1), (1.0, 0.01)))


def make_schedule(step: float | Schedule | None, default: Schedule) -> Schedule:
    """Turns ``step`` into a function. None gives ``default``."""
    if step is None or callable(step):
        return step or default
    checks.positive_fraction("EM", "step", step)
    return Constant(float(step))
