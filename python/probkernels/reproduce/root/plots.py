"""Plots of the ROOT experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .claims import sizes
from .records import ASCENT, BEST, LABELS, NO_LABELS, Proposals

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN = {BEST: GRAY, ASCENT: GREEN, NO_LABELS: ORANGE, LABELS: BLUE}


def figures(records: Sequence[Proposals]) -> list[Figure]:
    """The scores of all proposals of the largest experiment, sorted."""
    task, epochs = sizes(records)[-1]
    part = [r for r in records if (r.task, r.epochs) == (task, epochs) and r.method in SHOWN]
    caption = "Each line has the 128 proposals of one seed in the order of their scores. Higher is better."
    return [Figure(f"Scores of the proposals: {task}, {epochs} epochs", caption, lambda figure: _scores(figure, part))]


def _scores(figure: matplotlib.figure.Figure, records: Sequence[Proposals]) -> None:
    axes = figure.subplots()
    for record in records:
        label = record.method if record.seed == records[0].seed else None
        axes.plot(record.scores, color=SHOWN[record.method], linewidth=1.2, label=label)
    axes.set(xlabel="proposal", ylabel="score")
    axes.legend()
