"""The record of a trained network, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
POINT, PROB = "points", "Gaussians"
WAYS = (POINT, PROB)
TOTAL, ALEATORIC, EPISTEMIC = "total", "aleatoric", "epistemic"
DISTANCE, PERCENTILE = "distance", "percentile"
SCORES = (TOTAL, ALEATORIC, EPISTEMIC, DISTANCE, PERCENTILE)

# Of another program with this set-up and other random numbers, mean of three seeds.
EXPECTED_ACCURACY = {POINT: 0.983, PROB: 0.986}
EXPECTED_AUROC = {
    way: dict(zip(SCORES, figures, strict=True))
    for way, figures in {POINT: (0.957, 0.957, 0.500, 0.920, 0.913), PROB: (0.972, 0.977, 0.965, 0.797, 0.883)}.items()
}
EXPECTED_WRONG = {POINT: 0.977, PROB: 0.969}
EXPECTED_MSE = {POINT: 0.047, PROB: 0.050}
EXPECTED_EPISTEMIC = {POINT: (0.0, 0.0), PROB: (0.161, 0.713)}  # known, unknown classes
EXPECTED_OWN = 0.989


@dataclass
class Judged:
    """One network on the test set."""

    way: str
    seed: int
    accuracy: float
    auroc: dict[str, float]  # of unknown classes against known ones, by each score
    wrong: float  # AUROC of wrong against right predictions, by total uncertainty
    epistemic: tuple[float, float]  # mean over known and over unknown classes, in nats
    mse: float  # of reconstructions
    own: float  # share of decoded draws whose code is nearest to the center of their own prototype
    gallery: list[list[list[float]]] = field(default_factory=list)  # by prototype: center and draws, as pixels


def of(records: Sequence[Judged], way: str) -> list[Judged]:
    """The networks of one way, in order of the seeds."""
    return sorted((r for r in records if r.way == way), key=lambda r: r.seed)


def auroc_of(records: Sequence[Judged], way: str, score: str) -> float:
    """AUROC by one score, mean over seeds."""
    return fmean(r.auroc[score] for r in of(records, way))
