"""Ensembles of two-layer networks learn a permutation from the basis vectors, as their closed forms say."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title=(
        "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic Training Size and Quadratic Ensemble"
        " Complexity"
    ),
    paper="Giapitzakis, Back de Luca, Fountoulakis. 2025, arXiv:2502.16763",
    experiment=(
        "400 networks of 2,048 hidden units learn a random permutation of 5 bits from the 5 basis vectors, in two"
        " parameterizations, and are tested on all inputs with two ones: the law of their outputs, and the share of"
        " inputs that means of some networks permute exactly. Means of infinitely wide networks are drawn for up to"
        " 1,000 bits."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains ensembles of 5 bits with three seeds, and of 10 bits. ``quick`` takes one seed and 5 bits."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
