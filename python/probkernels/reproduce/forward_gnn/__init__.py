"""Single-forward learning against back-propagation and a linear classifier on graphs; bytes kept for backward."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Forward Learning of Graph Neural Networks",
    paper="Park, Wang, Simoulin, Yang, Yang, Rossi, Trivedi, Ahmed. ICLR 2024, arXiv:2403.11004",
    experiment=(
        "Graph convolutions of one to four layers learn to classify nodes, layer by layer (single-forward) or by"
        " back-propagation, beside a linear classifier that does not see the graph. Without --data: a stochastic block"
        " model with 400 nodes and 4 classes. With --data: CoraML in the official splits of the paper, and Cora. The"
        " bytes that one training step keeps for its backward pass are counted at one to eight layers."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains on all data sets and splits. ``quick`` takes two splits of the block model, whether or not ``data``."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
