"""Sequential Bayes: a posterior carried over tasks forgets the old ones; prototypes with a small memory do not."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="On Sequential Bayesian Inference for Continual Learning",
    paper="Kessler, Cobb, Rudner, Zohren, Roberts. Entropy 2023, arXiv:2301.01828",
    experiment=(
        "Five tasks of two Gaussian blobs: HMC samples the weights of a small network, and a Gaussian mixture carries"
        " the posterior from task to task; beside it, HMC on all tasks at once. Then digits come two classes at a time,"
        " to a softmax and to ProtoCL, with memories of different sizes. With --data the full run also takes"
        " Fashion-MNIST."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Filters the stream and trains all classifiers. ``quick`` takes one stream and the rows of the claims."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
