"""Gates with stochastic units train: experts behind closed gates are skipped at little loss of accuracy."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
    paper="Bengio, Leonard, Courville. arXiv:1308.3432, 2013",
    experiment=(
        "A gater with stochastic units switches on about a tenth of 200 linear experts, for the 10 classes of"
        " scikit-learn's digits and for their parity, which a linear model cannot tell. Beside the estimators of the"
        " paper stand gates without noise, trained by back-propagation, and logistic regression. With --data: MNIST"
        " with the paper's 2,000 experts, judged on 10,000 training images that were held out."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains all units on both tasks with two seeds. ``quick`` trains those with a claim, with one seed; ten
    classes for a third of the epochs."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
