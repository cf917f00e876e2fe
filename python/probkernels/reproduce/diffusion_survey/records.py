"""The records of the jobs, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SMALL, WHOLE = "small case", "large case"
CASES = (SMALL, WHOLE)
SAMPLERS, DENOISING, FOURIER, INPAINTING, ANOMALY, MASKS = (
    "samplers", "denoising", "Fourier", "inpainting", "anomalies", "masks",
)  # fmt: skip
TASKS = (SAMPLERS, DENOISING, FOURIER, INPAINTING, ANOMALY, MASKS)
MEANS = "mean of 8"
LEVELS = (0.3, 0.5, 1.0, 2.0)

# Figures of another program, one seed, with all steps: Frechet distances, squared errors, AUROCs and Dice's
# coefficients. Simple methods come first.
EXPECTED: dict[str, dict[str, float]] = {
    SAMPLERS: {"two halves of the data": 0.28, "DDIM, 10": 1.63, "DDIM, 20": 1.00, "DDIM, 50": 0.76,
               "++2M, 10": 1.14, "++2M, 20": 0.66, "DDIM with eta 1, 100": 1.04, "ancestral, 1000": 0.81},
    DENOISING: {"noisy": 0.2525, "Wiener": 0.0750, "D": 0.0680},
    FOURIER: {"zero-filled": 0.0991, "Gaussian": 0.0545, "replacement": 0.0620, f"replacement, {MEANS}": 0.0443,
              "repaint": 0.0401, f"repaint, {MEANS}": 0.0320, "ddnm": 0.0581, f"ddnm, {MEANS}": 0.0394},
    INPAINTING: {"mean image": 0.3096, "Gaussian": 0.2195, "replacement": 0.392, f"replacement, {MEANS}": 0.254,
                 "repaint": 0.297, f"repaint, {MEANS}": 0.232, "dps": 0.319, f"dps, {MEANS}": 0.211,
                 "pigdm": 0.328, f"pigdm, {MEANS}": 0.213},
    ANOMALY: {"distance from the mean": 0.680, "Gaussian, leaving one out": 0.807, "level 0.3": 0.787,
              "level 0.5": 0.777, "level 1": 0.744, "level 2": 0.707},
    MASKS: {"threshold": 0.757, "direct training": 0.865, "1 mask": 0.823, "mean of 5": 0.852, "mean of 16": 0.861,
            "AUROC of the spread": 0.84},
}  # fmt: skip


@dataclass
class Measured:
    """The figures of one task, and images to show: rows of named images, each of numbers in rows."""

    task: str
    case: str
    figures: dict[str, float]
    shown: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass
class Photograph:
    """One real image at twice its resolution, by several ways: PSNR in dB, and images as rows of numbers."""

    name: str
    psnr: dict[str, float]
    images: dict[str, list[list[float]]]


Record = Measured | Photograph


def of(records: Sequence[Record], task: str, case: str) -> Measured:
    """The figures of one task and case."""
    return next(r for r in records if isinstance(r, Measured) and (r.task, r.case) == (task, case))


def cases(records: Sequence[Record]) -> list[str]:
    """The cases that were measured."""
    return [case for case in CASES if any(isinstance(r, Measured) and r.case == case for r in records)]
