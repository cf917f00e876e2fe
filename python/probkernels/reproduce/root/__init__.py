"""ROOT: offline optimization by translating poor designs into good ones, measured on DNA sequences."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="ROOT: Rethinking Offline Optimization as Distributional Translation via Probabilistic Bridge",
    paper="Dao, Tran, Nguyen, Truong, Hoang. NeurIPS 2025, arXiv:2509.16300",
    experiment=(
        "The poorer half of all DNA sequences of length 8 with their measured binding (TF-Bind-8, with --data) trains a"
        " Brownian bridge on pairs that Gaussian processes make. It runs from the 128 best of these sequences; the"
        " table of all sequences scores the proposals. Beside it gradient ascent on one Gaussian process. The full run"
        " does the same with the variants of the protein GB1 at four sites. Without --data, an Ehrlich function of"
        " sequences of length 12 takes the table's place."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Runs the experiment on TF-Bind-8 if ``data`` holds it, else on an Ehrlich function. ``quick``: fewer epochs."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
