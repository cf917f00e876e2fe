"""NoProp: blocks that learn alone classify digits as back-propagation does, with the memory of one block."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="NoProp: Training neural networks without full back-propagation or full forward-propagation",
    paper="Li, Teh, Pascanu. 2025, arXiv:2503.24322",
    experiment=(
        "scikit-learn's 1,797 digits, a quarter of them for testing. Ten small blocks learn for 60 epochs, each alone,"
        " to denoise the label's vector. Beside them one network in continuous time and one by flow matching, a network"
        " trained by back-propagation, and a linear one. The bytes that autograd keeps are counted for up to 40 blocks."
        " With --data also mnist1d, Fashion-MNIST and MNIST, with the same kind of blocks, not the paper's"
        " convolutions."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains all ways with three seeds, and on the data sets of ``data``. ``quick``: digits, one seed."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
