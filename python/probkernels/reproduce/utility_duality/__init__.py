"""Utility-probability duality: rules that decide by probabilities gain from a conversion, the best option does not."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Utility-Probability Duality of Neural Networks",
    paper="Huang, Yuan. 2023, arXiv:2305.14859",
    experiment=(
        "A small network is trained on scikit-learn's digits, of whose labels 30 % are random. Classes are drawn from"
        " the Gibbs distribution of its logits at several scales b, and judged by clean labels. The scale is fitted to"
        " the expected gain, and to the likelihood of noisy labels, which is another aim. Sequences of six independent"
        " tokens have exact figures. The conversion is our guess: the paper's equation was not available."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains with four shares of random labels and five seeds. ``quick`` takes one share and three seeds."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
