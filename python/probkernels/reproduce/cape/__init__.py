"""CaPE against early stopping and plain training: probabilities that are known, of outcomes that images decide."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Deep Probability Estimation",
    paper="Liu, Kaku, Zhu, Leibovich, Mohan, Yu, Huang, Zanna, Razavian, Niles-Weed, Fernandez-Granda. ICML 2022,"
    " arXiv:2111.10734",
    experiment=(
        "Each of 1,797 digits gets an age: ten times its class plus a uniform number below ten. An outcome is drawn"
        " once, with a probability that the age decides in five ways, those of the paper. A small network sees pixels"
        " and outcomes of 1,000 digits; 300 choose when to stop, and the true probabilities of 497 judge it. With"
        " --data: the predictions for 4,738 faces that the authors released are measured again."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains all scenarios with five seeds. ``quick`` trains two scenarios with three seeds in all, no kernel."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
