"""Priors of a network that are fitted to a Gaussian process: functions of the prior, and the posterior they lead to."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="All You Need is a Good Functional Prior for Bayesian Deep Learning",
    paper="Tran, Rossi, Milios, Filippone. JMLR 2022, arXiv:2011.12829",
    experiment=(
        "A network 1-50-50-1 has a normal prior. Its six standard deviations are fitted so that its functions are like"
        " those of a Gaussian process with lengthscale 0.6. Then functions of that process are learned from 40 noisy"
        " points with a gap of 40 %, by SGHMC with four chains: with standard deviations of 1, with the fitted ones,"
        " and by the process itself. With --data: the same on splits of Boston housing, with hyperpriors."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Fits three priors and learns two functions with each. ``quick`` fits one, in 40 iterations, without Boston."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
