"""Prior-fitted networks: a transformer trained on data sets of a prior predicts as that prior's posterior does."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Transformers Can Do Bayesian Inference",
    paper="Muller, Hollmann, Pineda Arango, Grabocka, Hutter. ICLR 2022, arXiv:2112.10510",
    experiment=(
        "Networks learn from coins of unknown probability, from functions of a Gaussian process and from targets with"
        " two modes, and are compared with the exact answers. The full run trains on larger sets of the Gaussian"
        " process, with few and with many steps. With --data it also trains on tables of random networks, and"
        " classifies eight real tables from 30 rows."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains all networks. ``quick`` takes the coins, the two modes and a small Gaussian process."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
