"""Deep kernel machines: digits over the relative width nu, from the fixed kernel of a network to a learned one."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="A theory of representation learning gives a deep generalisation of kernel methods",
    paper="Yang, Robeyns, Milsom, Anson, Schoots, Aitchison. ICML 2023, arXiv:2108.13097",
    experiment=(
        "A sparse machine of two Gram layers and 80 inducing points learns 900 of scikit-learn's digits with a ReLU"
        " kernel and is tested on 897 others, for relative widths from infinity, where no representation is learned,"
        " down to 0.1. With --data: regression on UCI tables, test RMSE and NLL with and without learned Gram matrices."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains all widths with two seeds. ``quick`` takes one seed."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
