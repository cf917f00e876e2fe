"""Plots of the experiment on protected images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .records import EXPECTED, FEATURES, LARGE, PIXELS, SMALL, Attack, of, ways

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {FEATURES: BLUE, LARGE: ORANGE, PIXELS: GREEN, SMALL: GRAY}


def figures(records: Sequence[Attack]) -> list[Figure]:
    """The estimate during the attacks, and accuracies after them."""
    return [
        Figure(
            "Estimated Bayes error",
            "During the attack, one line for each seed. A new network gives the features after every five steps.",
            lambda figure: _traces(figure, records),
        ),
        Figure(
            "Accuracy on clean images",
            "Of networks that are trained on protected images alone (dots) and on half clean ones (rings), one for each"
            " seed. Diamonds are what another program gave for protected images alone.",
            lambda figure: _accuracies(figure, records),
        ),
    ]


def _traces(figure: matplotlib.figure.Figure, records: Sequence[Attack]) -> None:
    axes = figure.subplots()
    for way in ways(records):
        for place, record in enumerate(of(records, way)):
            axes.plot(record.errors, color=COLORS[way], linewidth=1, label=way if place == 0 else None)
    axes.set(xlabel="step", ylabel="estimate", ylim=(0, 0.95))
    axes.legend(fontsize=8)


def _accuracies(figure: matplotlib.figure.Figure, records: Sequence[Attack]) -> None:
    axes, found = figure.subplots(), ways(records)
    for place, way in enumerate(found):
        own = of(records, way)
        axes.plot([record.protected for record in own], [place] * len(own), "o", color=COLORS[way])
        axes.plot([record.mixed for record in own], [place] * len(own), "o", color=COLORS[way], fillstyle="none")
        axes.plot(EXPECTED[way][2], place, "D", color="black", fillstyle="none", markersize=5)
    axes.set(yticks=range(len(found)), yticklabels=found, xlabel="accuracy", xlim=(0, 1))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
