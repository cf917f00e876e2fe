"""The records of the scale-mixture experiment, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

DIABETES = "diabetes"
UCI = ("yacht", "boston", "energy", "concrete", "wine")
LARGE = ("kin8nm", "power", "naval")  # through inducing points
FIXED, GAMMA, BURR = "NNGP, scale 1", "inverse gamma", "Burr XII"
FAMILIES = (FIXED, GAMMA, BURR)
SIZES = (40, 150, 350)
SPLITS = tuple(range(8))

# Mean test NLL over 8 other random splits, of another program, and the paired gain of the inverse gamma mixture.
EXPECTED = {
    40: {FIXED: 5.566, GAMMA: 5.553, BURR: 5.553},
    150: {FIXED: 5.518, GAMMA: 5.472, BURR: 5.476},
    350: {FIXED: 5.489, GAMMA: 5.438, BURR: 5.436},
}
EXPECTED_GAIN = {40: "0.013 ± 0.021", 150: "0.046 ± 0.012", 350: "0.051 ± 0.014"}


@dataclass
class Compared:
    """The three families on one split."""

    data: str
    n: int  # training points
    split: int
    nll: dict[str, float]  # mean -log p(y) of test points, in original units
    scale: float  # E[sigma^2 | y] of the inverse gamma mixture
    rmse: float  # of the inverse gamma mixture, in original units


def of(records: Sequence[Compared], data: str, n: int | None = None) -> list[Compared]:
    """The splits of one data set and size."""
    return [r for r in records if r.data == data and (n is None or r.n == n)]


def mean(records: Sequence[Compared], family: str) -> float:
    """Mean test NLL over splits."""
    return fmean(r.nll[family] for r in records)


def gains(records: Sequence[Compared], family: str = GAMMA) -> list[float]:
    """What the test NLL of each split gains over a fixed scale."""
    return [r.nll[FIXED] - r.nll[family] for r in records]


def with_error(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{error}"
