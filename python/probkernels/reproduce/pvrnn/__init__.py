"""PV-RNN: an intermediate weight of the KL extracts the probabilistic structure of sequences."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="A Novel Predictive-Coding-Inspired Variational RNN Model for Online Prediction and Recognition",
    paper="Ahmadi, Tani. Neural Computation 31(11), 2019, arXiv:1811.01339",
    experiment=(
        "Ten sequences of 24 symbols in cycles of 1, 0 and a coin with a rate of 0.3. Networks with 10 units, one"
        " latent and several weights w of the KL learn them and run freely for 1,200 steps: do they keep the cycle, and"
        " do they throw the coin? Error regression predicts unseen sequences. The full run has all weights and three"
        " seeds; with --data also movements of arms and branching paths, next to a GRU and two simple predictions."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains networks with all w. ``quick``: three of them, one seed, and no movements of ``data``."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
