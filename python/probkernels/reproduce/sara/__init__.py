"""SaRA: a diffusion model learns a new class through the weights that it does not use, and keeps the old ones."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation",
    paper="Hu, Zhang, Yi, Huang, Wang, Ma. ICLR 2025, arXiv:2409.06633",
    experiment=(
        "A conditional diffusion model of 149,538 weights learns eight classes of points in the plane, then a ninth"
        " class of another shape from data of that class alone, as one fine-tunes an image model to a new style. Only"
        " what is trained differs: the 5.8 % smallest weights (SaRA), as many random or largest ones, or all. The loss"
        " on the new data tells how well it fits, the loss on the old classes how much of the prior is left."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Runs every recipe and measures its cost. ``quick`` runs only the recipes of the claims, without costs.

    Both use two seeds, because one seed cannot separate these recipes.
    """
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
