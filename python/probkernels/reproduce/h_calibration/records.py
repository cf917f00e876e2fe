"""The record of a calibrated classifier, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

SEEDS = (0, 1, 2)
DRAWN, LENET, WRN, DENSENET = "drawn", "LeNet-5, CIFAR-10", "WRN-16-4, CIFAR-10", "DenseNet-BC, CIFAR-100"
BEFORE, LIKELIHOOD = "uncalibrated", "temperature, likelihood"
TS, ENSEMBLE, LINEAR = "temperature, h", "16 temperatures, h", "100 segments, h"
MAPS = {TS: ("ts", None), ENSEMBLE: ("ensemble_ts", 16), LINEAR: ("pwlinear", 100)}

# ECE of 15 bins of equal width, and negative log-likelihood, that another program gave. On drawn logits: the ECE, mean
# of three seeds that drew other samples.
EXPECTED = {
    (DRAWN, BEFORE): (0.1987, None), (DRAWN, TS): (0.0183, None),
    (LENET, BEFORE): (0.1139, 1.3929), (LENET, LIKELIHOOD): (0.0229, 1.3301), (LENET, TS): (0.0249, 1.3307),
    (LENET, LINEAR): (0.0214, 1.3314),
    (WRN, BEFORE): (0.0513, 0.3679), (WRN, LIKELIHOOD): (0.0074, 0.2696), (WRN, TS): (0.0072, 0.2698),
    (WRN, ENSEMBLE): (0.0070, 0.2699), (WRN, LINEAR): (0.0106, 0.2708),
    (DENSENET, BEFORE): (0.1392, 1.1916), (DENSENET, LIKELIHOOD): (0.0205, 0.8581), (DENSENET, TS): (0.0207, 0.8589),
    (DENSENET, LINEAR): (0.0228, 0.8582),
}  # fmt: skip


@dataclass
class Calibrated:
    """A classifier's probabilities, calibrated in one way and measured."""

    data: str
    way: str
    seed: int
    ece: float  # 15 bins of equal width
    mass_ece: float  # 15 bins of equal mass
    ks: float
    class_wise: float
    nll: float
    changed: int  # samples whose predicted class is another one than before
    loss: float  # of h-calibration, all samples at once
    factor: float | None = None  # by which one temperature multiplies the logits
    bins: list[tuple[float, float, float]] = field(default_factory=list)  # probability, frequency, count of each bin


def runs_of(records: Sequence[Calibrated], data: str, way: str) -> list[Calibrated]:
    """The records of every seed."""
    return [record for record in records if (record.data, record.way) == (data, way)]


def mean_of(records: Sequence[Calibrated], data: str, way: str, what: str) -> float:
    """A figure's mean over the seeds."""
    return fmean(getattr(record, what) for record in runs_of(records, data, way))
