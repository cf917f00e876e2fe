"""Learned proximal networks on Laplace samples: proximal matching against l2 and l1."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
    paper="Fang, Buchanan, Sulam. ICLR 2024, arXiv:2310.14344",
    experiment=(
        "Numbers of a Laplace distribution with noise of standard deviation 1. An input-convex network of four layers"
        " of 50 units learns to denoise them by squared error, by absolute error, and from there by proximal matching"
        " with gamma from 0.5 to 0.1. Its values are compared with the posterior's mean, median and mode, which are"
        " known, and the regularizer it learned, found by inverting it, with |x|."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains with a third of the steps and batches of 400; unless ``quick``, also with all steps, batches of 1000."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
