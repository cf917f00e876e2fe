"""A prior on the variance of the last layer adapts the output scale of an infinitely wide network."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Scale Mixtures of Neural Network Gaussian Processes",
    paper="Lee, Yun, Yang, Lee. ICLR 2022, arXiv:2107.01408",
    experiment=(
        "Regression on scikit-learn's diabetes data with the kernel of an infinitely wide ReLU network of four hidden"
        " layers. The scale of the network is fixed, has an inverse gamma prior (a Student-t process) or a Burr XII"
        " prior (quadrature). Kernel, noise and prior are chosen on validation data. With --data: five UCI data sets on"
        " their standard splits."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Compares the three on eight random splits for each of three sizes. ``quick`` takes five splits."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
