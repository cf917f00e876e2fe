"""Monotone Boltzmann machines: one model completes digits and classifies them, and its mean field always converges."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Monotone deep Boltzmann machines",
    paper="Feng, Winston, Kolter. TMLR 2023, arXiv:2307.04990",
    experiment=(
        "scikit-learn's digits in four gray levels: 1,347 to train on, 450 to judge. A machine of 64 pixels, 64 hidden"
        " groups of four states and a label is trained on random masks, with 40 % of the pixels observed. It then"
        " completes missing pixels and names the digit, from 40 % of the pixels and from all. A machine without the"
        " constraint, a logistic regression on masked pixels, and the most frequent level of each pixel are beside it."
        " Ten groups that repel each other show where the plain mean field oscillates."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains and judges. ``quick`` trains the monotone machine alone, for 20 epochs."""
    records = experiment.measure(quick, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
