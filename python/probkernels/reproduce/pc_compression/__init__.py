"""Lossless compression with circuits in real bytes: whole files with headers, compared with other compressors."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Lossless Compression with Probabilistic Circuits",
    paper="Liu, Mandt, Van den Broeck. ICLR 2022, arXiv:2111.11632",
    experiment=(
        "Hidden Chow-Liu trees are trained on images, frozen into whole-number tables, and compress other images into"
        " files, which are decoded and compared. Sizes are those of whole files, without the model unless that is said."
        " Beside them general and image compressors at their best levels, on all images as one array or mosaic and on"
        " each by itself. Data: scikit-learn's 8 × 8 digits in 17 levels, the first 1,297 for training and the last"
        " 500, by other writers, to compress; with --data, MNIST and its 10,000 test images."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Runs the experiment on digits, and on MNIST if ``data`` holds it and the run is not ``quick``."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
