"""AdjointDPM: gradients through a diffusion sampler, exact ones compared with the continuous adjoint."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of Diffusion Probabilistic Models",
    paper="Pan, Liew, Tan, Feng, Yan. ICLR 2024, arXiv:2307.10711",
    experiment=(
        "A diffusion model of scikit-learn's 8 × 8 digits is changed through gradients of what it samples: its noise"
        " is moved until a classifier takes each sample for the next digit (the paper's attack), and its weights until"
        " it draws one image. The gradient comes from the paper's continuous adjoint or from the exact discrete adjoint"
        " of the same sampler, at the same memory. Both are compared with automatic differentiation of all steps."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Trains a model, then measures gradients. ``quick`` trains less and uses fewer seeds and methods."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
