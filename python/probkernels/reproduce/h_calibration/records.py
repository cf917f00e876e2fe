"""The record of a calibrated classifier, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

SEEDS = (0, 1, 2)
DRAWN, LENET, WRN, DENSENET = "drawn", "LeNet-5, CIFAR-10", "WRN-16-4, CIFAR-10", "DenseNet-BC, CIFAR-100"
BEFORE, LIKELIHOOD = "uncalibrated", "temperature, likelihood"
TS, ENSEMBLE, LINEAR = "temperature, h", "16 temperatures, h", "100 segments, h"
# The best of the twelve maps, by what the selection has the least of on the samples of the fit.
SELECTED = {
    "dece": "best map by debiased ECE", "cwece": "best map by class-wise ECE", "nll": "best map by likelihood",
}  # fmt: skip
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
    map: str = ""  # kind and size of the map that a selection is about
    score: tuple[float, float] = (0.0, 0.0)  # what it is selected by, the least first


def selected(records: Sequence[Calibrated]) -> list[Calibrated]:
    """All records, but of the candidates of each selection only the chosen one."""
    found = [record for record in records if record.way not in SELECTED.values()]
    for data in dict.fromkeys(record.data for record in records):
        for way in SELECTED.values():
            found += sorted(runs_of(records, data, way), key=lambda record: record.score)[:1]
    return found


def runs_of(records: Sequence[Calibrated], data: str, way: str) -> list[Calibrated]:
    """The records of every seed."""
    return [record for record in records if (record.data, record.way) == (data, way)]


def mean_of(records: Sequence[Calibrated], data: str, way: str, what: str) -> float:
    """A figure's mean over the seeds."""
    return fmean(getattr(record, what) for record in runs_of(records, data, way))
