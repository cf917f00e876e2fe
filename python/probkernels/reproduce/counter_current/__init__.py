"""Counter-current learning against back-propagation: accuracy, and memory against depth."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Counter-Current Learning: A Biologically Plausible Dual Network Approach for Deep Learning",
    paper="Kao, Hariharan. NeurIPS 2024, arXiv:2409.19841",
    experiment=(
        "Networks of five layers learn 1,797 digits by back-propagation, by counter-current learning with two losses,"
        " with its feedback network frozen, in the last layer alone, and without hidden layers. The bytes that each"
        " form of the gradients keeps for its backward pass are counted for 2 to 32 layers. With --data: MNIST and"
        " Fashion-MNIST with the paper's six layers for 100 epochs, and MNIST-1D."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains with five seeds on digits, and on larger data sets from ``data``. ``quick``: digits, three seeds."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
