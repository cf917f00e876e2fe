"""Prob-PSENN against fixed prototypes: how well its uncertainty finds classes that it never saw."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Uncertainty-Aware Explanations Through Probabilistic Self-Explainable Neural Networks",
    paper="Vadillo, Santana, Lozano, Kwiatkowska. arXiv:2403.13740",
    experiment=(
        "A small autoencoder and one prototype a class learn digits 0 to 7 from 1,000 images, once with prototypes that"
        " are points and once with Gaussians. Other images of these digits give the accuracy. Digits 8 and 9, which no"
        " network saw, should be the uncertain ones."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains both networks with five seeds. ``quick`` takes three."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
