"""The records of trained models and of iterations, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MONOTONE, FREE = "monotone machine", "machine without the constraint"
LOGISTIC, MODE = "masked logistic regression", "most frequent level"
SHORT, MIDDLE, LONG = 20, 40, 60  # epochs
M = 0.05
ALPHAS = (1.0, 0.5, 0.25, 0.2, 0.125, 0.05)
BOUND = 2 / 9.1  # 2 / L of the groups that repel each other

# Label accuracy with 40 % of the pixels, accuracy of missing pixels, label accuracy with all pixels, smallest
# eigenvalue; of another program with this set-up and other random numbers. NaN: not measured.
NONE = float("nan")
EXPECTED = {
    (MONOTONE, SHORT): (0.72, 0.723, 0.918, 0.082),
    (MONOTONE, LONG): (0.72, 0.7275, 0.935, 0.055),
    (FREE, MIDDLE): (0.753, 0.743, 0.931, -1.36),
    (LOGISTIC, 0): (0.80, NONE, 0.93, NONE),
    (MODE, 0): (NONE, 0.676, NONE, NONE),
}
ITERATIONS = {1.0: None, 0.5: None, 0.25: None, 0.2: 58, 0.125: 12, 0.05: 33}  # None: never


@dataclass
class Judged:
    """A model on the test set."""

    way: str
    epochs: int
    label_some: float  # accuracy with 40 % of the pixels
    pixels: float  # accuracy of the missing pixels
    label_all: float
    min_eig: float = NONE
    iterations: list[float] = field(default_factory=list)  # mean of each epoch


@dataclass
class Completed:
    """Some test images: what is observed (-1 elsewhere), the completion, the truth; (images, 64)."""

    observed: list[list[int]]
    completed: list[list[int]]
    truth: list[list[int]]


@dataclass
class Iterated:
    """The damped iteration on groups that repel each other."""

    alpha: float
    iterations: int
    residual: float
    converged: bool


Record = Judged | Completed | Iterated


def judged(records: Sequence[Record]) -> list[Judged]:
    """The trained models."""
    return [r for r in records if isinstance(r, Judged)]


def iterated(records: Sequence[Record]) -> list[Iterated]:
    """The iterations, from the largest alpha."""
    return sorted((r for r in records if isinstance(r, Iterated)), key=lambda r: -r.alpha)
