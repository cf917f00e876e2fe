"""h-calibration: classifiers that are too sure of themselves, calibrated on held-out logits."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="h-calibration: Rethinking Classifier Recalibration with Probabilistic Error-Bounded Objective",
    paper="Huang, Cao, Xia, Chen, Wang, Zhang. IEEE TPAMI 2025, arXiv:2506.17968",
    experiment=(
        "Maps that keep the order of classes are fitted to held-out logits by the loss of h-calibration, and compared"
        " with the temperature of the largest likelihood. Without data: logits that are twice as sure as the"
        " probabilities that drew the labels, so that the right temperature is known. With --data: logits of three"
        " networks on the test images of CIFAR-10 and CIFAR-100, one half for the fit and the other half to measure,"
        " by single maps and by the best of twelve."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Calibrates drawn logits, and those of networks if ``data`` holds them and the run is not ``quick``."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
