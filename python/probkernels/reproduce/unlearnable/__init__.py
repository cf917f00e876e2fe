"""Images that are moved to raise the estimated Bayes error, and networks that are trained on them."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Towards Provably Unlearnable Examples via Bayes Error Optimisation",
    paper="Zhang, Sun, Lim, Zhang. AAAI 2026, arXiv:2511.08191",
    experiment=(
        "The pixels of 1,347 digits move by at most eps of their range, to raise the kernel estimate of the Bayes"
        " error: of the pixels themselves, or of the features of networks that are trained on the moved images in"
        " turns. Networks are then trained on all moved images, or on half of them and half clean ones, and judged on"
        " 450 clean digits."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Protects digits in four ways with five seeds. ``quick`` takes three ways and two seeds."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
