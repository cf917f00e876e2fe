"""Plots of the experiment with monotone Boltzmann machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, ORANGE, bare
from .records import MONOTONE, Completed, Record, judged

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Record]) -> list[Figure]:
    """Completions, and iterations over the training."""
    found = []
    shown = [r for r in records if isinstance(r, Completed)]
    if shown:
        caption = "Above: the observed 40 % of the pixels, the others red. Middle: the completion. Below: the truth."
        found.append(Figure("Completions", caption, lambda figure: _completions(figure, shown[-1]), (8.0, 3.2)))
    caption = "Mean iterations of a batch to a relative change of 1e-4, after each epoch: flat, as the theory says."
    found.append(Figure("Iterations", caption, lambda figure: _iterations(figure, records)))
    return found


def _completions(figure: matplotlib.figure.Figure, shown: Completed) -> None:
    import numpy as np

    rows = shown.observed, shown.completed, shown.truth
    panels = figure.subplots(3, len(shown.truth), squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for axes, image in zip(line, row, strict=True):
            levels = np.array(image, dtype=float).reshape(8, 8)
            color = np.repeat(levels[..., None].clip(0) / 3, 3, 2)
            color[levels < 0] = (0.85, 0.45, 0.4)
            axes.imshow(color)
            bare(axes)


def _iterations(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    axes = figure.subplots()
    for r in judged(records):
        if r.iterations:
            color = GRAY if r.way != MONOTONE else BLUE if r.epochs > 20 else ORANGE
            axes.plot(
                range(1, len(r.iterations) + 1), r.iterations, "o-", color=color, label=f"{r.way}, {r.epochs} epochs"
            )
    axes.set(xlabel="epoch", ylabel="iterations", ylim=(0, None))
    axes.legend()
