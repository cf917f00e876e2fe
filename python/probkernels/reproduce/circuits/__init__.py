"""Probabilistic circuits: likelihoods and queries of a tree of latent variables on images."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Lossless Compression with Probabilistic Circuits",
    paper="Liu, Mandt, Van den Broeck. ICLR 2022, arXiv:2111.11632",
    experiment=(
        "A hidden Chow-Liu tree (HCLT: the Chow-Liu tree of the pixels, with a latent of M states above each) is"
        " fitted by EM to scikit-learn's 8 × 8 digits in 17 levels: the first 1,297 train, the last 500, by other"
        " writers, test. Bits per dimension (-log2 p of an image over its pixels) are what a lossless code of it would"
        " need. The same circuit completes half-hidden digits, and one circuit a class tells them apart. With --data,"
        " MNIST in 256 levels too."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Runs the experiment on digits, and on MNIST if ``data`` holds it.

    ``quick`` runs digits only, without M = 16, without mini-batches, and with half of Adam's learning rates.
    """
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
