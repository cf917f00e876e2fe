"""The record of protected images, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1)
SMALL, PIXELS, LARGE = "pixels, eps 0.1", "pixels, eps 0.25", "pixels, eps 0.5"
FEATURES = "features, eps 0.25"
EPS = {FEATURES: 0.25, LARGE: 0.5, PIXELS: 0.25, SMALL: 0.1}  # of the range of a pixel
QUICK = (FEATURES, LARGE, PIXELS)

# Estimate before and after, accuracy after training on protected images alone, and on half of them: another program.
EXPECTED: dict[str, tuple[float | None, float | None, float, float]] = {
    FEATURES: (0.263, 0.815, 0.753, 0.940),
    LARGE: (0.043, 0.875, 0.233, 0.956),
    PIXELS: (0.043, 0.866, 0.872, 0.956),
    SMALL: (None, None, 0.97, 0.97),
}
EXPECTED_CLEAN, EXPECTED_HALF = 0.965, 0.962


@dataclass
class Attack:
    """Images protected in one way, and the accuracy on clean test images of networks trained in four ways."""

    way: str
    seed: int
    change: float  # largest change of a pixel
    errors: list[float] = field(default_factory=list)  # estimated Bayes error before each step, and after the last
    retrained: float | None = None  # the estimate of the features of a network that is trained on the result
    clean: float = 0.0  # on all clean images
    half: float = 0.0  # on half of the clean images
    protected: float = 0.0  # on all protected images, mean of three networks
    mixed: float = 0.0  # on half clean and half protected images


def of(records: Sequence[Attack], way: str) -> list[Attack]:
    """The records of one way, in order of the seeds."""
    return sorted((record for record in records if record.way == way), key=lambda record: record.seed)


def ways(records: Sequence[Attack]) -> list[str]:
    """The ways that were measured."""
    return [way for way in EPS if of(records, way)]
