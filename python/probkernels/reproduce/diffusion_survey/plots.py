"""Plots of the experiment with tasks of diffusion models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import bare
from .records import ANOMALY, FOURIER, INPAINTING, MASKS, Photograph, Record, cases, of

if TYPE_CHECKING:
    import matplotlib.figure

CAPTIONS = {
    FOURIER: "Digits from half of their Fourier rows.",
    INPAINTING: "Digits whose right half is missing. One sample of each method, and the mean of eight by DPS.",
    ANOMALY: "Digits with a spoiled patch, and maps of what the model or a simple method finds unusual.",
    MASKS: "Noisy digits, their true masks, one drawn mask, and mean and spread of sixteen.",
}


def figures(records: Sequence[Record]) -> list[Figure]:
    """A figure for each task with images, and one for each real image."""
    case = cases(records)[-1]
    made = []
    for task, caption in CAPTIONS.items():
        shown = of(records, task, case).shown
        draw = partial(_draw, shown=shown)
        made.append(Figure(task.capitalize(), caption, draw, (7.0, 0.75 * len(shown) + 0.2)))
    for image in of_kind(records, Photograph):
        text = (
            "At half the resolution, and at the whole one by several ways. The model knows patches of 8 × 8 pixels of"
            " other images only, so that edges of patches may show."
        )
        made.append(Figure(image.name.capitalize(), text, partial(_photograph, image=image), (9.0, 2.4)))
    return made


def _draw(figure: matplotlib.figure.Figure, shown: dict[str, list[list[float]]]) -> None:
    columns = len(next(iter(shown.values())))
    panels = figure.subplots(len(shown), columns, squeeze=False)
    for line, (name, images) in zip(panels, shown.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            pixels = torch.tensor(image).view(8, 8)
            low = -1.0 if float(pixels.min()) < 0 else 0.0
            high = 1.0 if low < 0 else max(float(pixels.max()), 1e-6)
            axes.imshow(pixels.numpy(), cmap="Greys", vmin=low, vmax=high)
            bare(axes)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6, fontsize=7)


def _photograph(figure: matplotlib.figure.Figure, image: Photograph) -> None:
    panels = figure.subplots(1, len(image.images), squeeze=False)[0]
    for axes, (name, pixels) in zip(panels, image.images.items(), strict=True):
        axes.imshow(torch.tensor(pixels).numpy(), cmap="gray", vmin=-1, vmax=1)
        bare(axes)
        psnr = image.psnr.get(name)
        axes.set_title(name if psnr is None else f"{name}\n{psnr:.2f} dB", fontsize=7.5)
