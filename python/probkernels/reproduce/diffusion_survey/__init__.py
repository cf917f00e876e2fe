"""What people do with diffusion models of images, on digits, with a simple method beside every figure."""

from __future__ import annotations

from pathlib import Path

from ..harness.method import Method, Progress, Result
from . import claims, experiment, plots

METHOD = Method(
    title="Diffusion models in medical imaging: A comprehensive survey",
    paper=(
        "Kazerouni, Aghdam, Heidari, Azad, Fayyaz, Hacihaliloglu, Merhof. Medical Image Analysis 2023, arXiv:2211.07804"
    ),
    experiment=(
        "A diffusion model of scikit-learn's 8 × 8 digits, trained on the first 1,300, samples, denoises, reconstructs"
        " from half of the Fourier rows, fills in the right half and finds spoiled patches of digits it has not seen; a"
        " second one draws masks of noisy digits. Each figure stands beside that of a simple method."
    ),
)


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """A small case; unless ``quick``, also a large one. With ``data``, a slice of a brain and a photograph as well."""
    records = experiment.measure(quick, data, progress)
    return Result(claims.claims(records), claims.tables(records), plots.figures(records))
