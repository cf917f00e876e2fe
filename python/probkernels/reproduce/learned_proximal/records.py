"""The records of trained networks, the truth they are compared with, and the expected figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

L2, L1, PM = "squared error", "absolute error", "proximal matching"
WAYS = (L2, L1, PM)
SMALL, WHOLE = "a third of the steps, batch 400", "all steps, batch 1000"
CASES = (SMALL, WHOLE)
# Largest RMSE, its largest share of that of squared error, and what parts the errors of both priors.
BOUNDS = {SMALL: (0.12, 0.6, 0.45), WHOLE: (0.10, 0.5, 0.15)}
POINTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # y at which f is compared
PRIOR_POINTS = (0.5, 1.0, 2.0)

# RMSE to the soft threshold on [-4, 4], f(0.5, 1, 1.5, 2), R(0.5, 1, 2) and its largest error, of another program.
EXPECTED_RMSE = {L2: 0.222, L1: 0.182, PM: 0.064}
EXPECTED_F = {L2: (0.234, 0.504, 0.791, 1.126), L1: (0.197, 0.436, 0.749, 1.133), PM: (0.047, 0.163, 0.491, 0.979)}
EXPECTED_R = {L2: (0.135, 0.470, 1.384), PM: (0.419, 0.922, 1.963)}
EXPECTED_ERROR = {L2: 0.66, PM: 0.10}


@dataclass
class Trained:
    """One network."""

    way: str
    case: str
    rmse: float  # to the soft threshold, 401 points of [-4, 4]
    f: list[float]  # at POINTS
    r: list[float]  # at PRIOR_POINTS, 0 at 0
    error: float  # the largest |R - |x|| on [-2.5, 2.5]
    residual: float  # the largest of the inversions
    curve: list[tuple[float, float]]  # y and f(y)
    prior: list[tuple[float, float]]  # x and R(x)


def of(records: Sequence[Trained], way: str, case: str) -> Trained:
    """The network of one way and case."""
    return next(r for r in records if (r.way, r.case) == (way, case))


def cases(records: Sequence[Trained]) -> list[str]:
    """The cases that were measured."""
    return [case for case in CASES if any(r.case == case for r in records)]


def soft(y: float) -> float:
    """The posterior's mode, of a Laplace prior and noise 1."""
    return math.copysign(max(abs(y) - 1, 0.0), y)


def posterior_mean(y: float) -> float:
    """The posterior's mean: y plus the score of the density of y, in closed form."""
    low = math.exp(-y) * math.erfc((1 - y) / math.sqrt(2))
    high = math.exp(y) * math.erfc((1 + y) / math.sqrt(2))
    return y + (high - low) / (high + low)
