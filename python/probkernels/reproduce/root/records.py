"""The record of a set of proposals, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

TF_BIND, GB1, EHRLICH = "TF-Bind-8", "GB1", "Ehrlich"
SEEDS = (0, 1)
BEST, ASCENT = "best of the data", "gradient ascent on one Gaussian process"
LABELS, NO_LABELS = "ROOT, guidance 1", "ROOT, guidance 0"
AWAY, SWAPPED = "ROOT, guidance −0.5", "ROOT, guidance 1, labels swapped"

# Size of an experiment: epochs, points that functions are fitted to, starts of pairs. The network has width 256.
SIZES = {3: (1000, 256), 6: (2000, 512), 20: (2000, 512)}

# (largest, 80th, 50th percentile) of the scores of 128 proposals, of another program in this set-up.
EXPECTED = {
    (TF_BIND, 3, LABELS): (0.936, 0.651, 0.468),
    (TF_BIND, 6, NO_LABELS): (0.947, 0.706, 0.556),
    (TF_BIND, 6, AWAY): (0.944, 0.736, 0.562),
    (TF_BIND, 6, ASCENT): (0.943, 0.683, 0.521),
    (TF_BIND, 20, LABELS): (0.977, 0.661, 0.530),
    (TF_BIND, 20, NO_LABELS): (0.968, 0.735, 0.563),
    (TF_BIND, 20, ASCENT): (0.943, 0.683, 0.521),
}


@dataclass
class Proposals:
    """Scores of the proposals of one method in one experiment, means of some seeds of the noise."""

    task: str
    epochs: int
    method: str
    seed: int
    top: float
    upper: float  # 80th percentile
    middle: float  # 50th percentile
    scores: list[float]  # of the first seed of the noise


def mean_of(records: Sequence[Proposals], epochs: int, method: str, figure: str) -> float:
    """The mean of a figure over seeds."""
    return fmean(getattr(r, figure) for r in records if (r.epochs, r.method) == (epochs, method))
