"""Plots of the Prob-PSENN experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, bare
from .records import EXPECTED_AUROC, POINT, PROB, SCORES, Judged, of

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Judged]) -> list[Figure]:
    """AUROCs by all scores, and a gallery of prototypes."""
    found = [
        Figure(
            "Unknown classes",
            "AUROC of digits 8 and 9 against others, higher is better. Dots are seeds, lines their means, diamonds the"
            " means of another program. Points have no epistemic uncertainty.",
            lambda figure: _scores(figure, records),
            (8.0, 3.0),
        )
    ]
    galleries = [r.gallery for r in of(records, PROB) if r.gallery]
    if galleries:
        caption = "Decoded prototypes of digits 0 to 7: the center on the left, then draws, of one seed."
        found.append(Figure("Prototypes", caption, lambda figure: _gallery(figure, galleries[0]), (5.2, 5.2)))
    return found


def _scores(figure: matplotlib.figure.Figure, records: Sequence[Judged]) -> None:
    axes = figure.subplots()
    for place, score in enumerate(SCORES):
        for way, color, shift in ((POINT, GRAY, -0.17), (PROB, BLUE, 0.17)):
            values, at = [r.auroc[score] for r in of(records, way)], place + shift
            axes.plot(values, [at] * len(values), "o", color=color, alpha=0.7, markeredgewidth=0)
            axes.plot([fmean(values)] * 2, [at - 0.14, at + 0.14], color=color, linewidth=2.5)
            axes.plot(EXPECTED_AUROC[way][score], at, "D", color="black", fillstyle="none", markersize=5)
    for way, color in ((POINT, GRAY), (PROB, BLUE)):
        axes.plot([], [], "o", color=color, label=way)
    axes.set(yticks=range(len(SCORES)), yticklabels=SCORES, ylim=(len(SCORES) - 0.5, -0.5), xlabel="AUROC")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left")


def _gallery(figure: matplotlib.figure.Figure, gallery: list[list[list[float]]]) -> None:
    panels = figure.subplots(len(gallery), len(gallery[0]), squeeze=False)
    for row, images in zip(panels, gallery, strict=True):
        for axes, pixels in zip(row, images, strict=True):
            side = int(len(pixels) ** 0.5)
            axes.imshow(np.array(pixels).reshape(side, side), cmap="gray_r", vmin=-1, vmax=1)
            bare(axes)
