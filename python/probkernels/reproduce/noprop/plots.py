"""Plots of the NoProp experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import BLUE, GRAY, ORANGE
from .records import CHAIN, DIGITS, EXPECTED, ONE_BLOCK, WAYS, Kept, Trained, kept

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Trained | Kept]) -> list[Figure]:
    """Memory against depth, and accuracies on digits."""
    memory = "A step of one block keeps the same bytes for backward however many blocks there are."
    accuracies = "Digits. Dots are inference runs of all seeds, diamonds the figures of another program."
    return [
        Figure("Memory against depth", memory, lambda figure: _memory(figure, records)),
        Figure("Test accuracy", accuracies, lambda figure: _accuracies(figure, records), (8.0, 3.0)),
    ]


def _memory(figure: matplotlib.figure.Figure, records: Sequence[Trained | Kept]) -> None:
    axes = figure.subplots()
    for way, color in ((ONE_BLOCK, BLUE), (CHAIN, ORANGE)):
        found = kept(records, way)
        axes.plot(list(found), [size / 2**20 for size in found.values()], "o-", color=color, label=way)
    axes.set(xlabel="blocks T", ylabel="MiB kept for backward", ylim=(0, None))
    axes.legend()


def _accuracies(figure: matplotlib.figure.Figure, records: Sequence[Trained | Kept]) -> None:
    axes = figure.subplots()
    for place, way in enumerate(WAYS):
        for r in of_kind(records, Trained):
            if (r.data, r.way) == (DIGITS, way):
                axes.plot(r.accuracies, [place] * len(r.accuracies), "o", color=BLUE, alpha=0.6, markeredgewidth=0)
        if way in EXPECTED:
            axes.plot(EXPECTED[way], place, "D", color=GRAY, fillstyle="none")
    axes.set(xlabel="test accuracy", yticks=range(len(WAYS)), yticklabels=WAYS, ylim=(len(WAYS) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
