"""Martingale posterior neural processes: generated data close the gap between joint and marginal densities."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Martingale Posterior Neural Processes",
    paper="Lee, Yun, Nam, Fong, Lee. ICLR 2023, arXiv:2304.09431",
    experiment=(
        "Tasks whose best predictions are known: a constant, standard normal, with noise of 0.3. A CNP and an MPNP with"
        " one pseudo context learn to predict ten targets from few contexts; 500 new tasks for each number of contexts"
        " judge them, next to the exact densities. The full run also trains both on functions of a Gaussian process and"
        " judges them on functions of other kernels and with heavy noise."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains both models in all settings. ``quick``: tasks of one or two contexts, one seed. ``data`` is not used."""
    records = experiment.measure(quick, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
