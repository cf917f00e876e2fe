"""Plots of the CaPE experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE, plain_log
from .records import CONTINUED, EARLY, EXPECTED, KERNEL, LAST, OVERFIT, SCENARIOS, SELECTED, WAYS, Judged, Released, of

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {OVERFIT: GRAY, EARLY: GREEN, SELECTED: GREEN, CONTINUED: ORANGE, LAST: BLUE, KERNEL: BLUE}


def figures(records: Sequence[Judged | Released]) -> list[Figure]:
    """Distances from the truth."""
    scenarios = [scenario for scenario in SCENARIOS if of(records, scenario, EARLY)]
    return [
        Figure(
            "Distance from the true probabilities",
            "MSE_p, lower is better. Dots are seeds, lines their means, diamonds the means of another program."
            " The axis is logarithmic.",
            lambda figure: _distances(figure, records, scenarios),
            (8.0, 0.6 + 1.7 * len(scenarios)),
        )
    ]


def _distances(figure: matplotlib.figure.Figure, records: Sequence[Judged | Released], scenarios: list[str]) -> None:
    panels = figure.subplots(len(scenarios), 1, sharex=True, squeeze=False)[:, 0]
    for axes, scenario in zip(panels, scenarios, strict=True):
        for place, way in enumerate(WAYS):
            values = [r.mse_p for r in of(records, scenario, way)]
            if values:
                axes.plot(values, [place] * len(values), "o", color=COLORS[way], alpha=0.7, markeredgewidth=0)
                axes.plot([fmean(values)] * 2, [place - 0.3, place + 0.3], color=COLORS[way], linewidth=2.5)
            axes.plot(EXPECTED[scenario][way], place, "D", color="black", fillstyle="none", markersize=5)
        axes.set(title=scenario, yticks=range(len(WAYS)), yticklabels=WAYS, ylim=(len(WAYS) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
    for axes in panels:
        plain_log(axes, "x", (0.005, 0.01, 0.02, 0.05, 0.1))
    panels[-1].set_xlabel("MSE_p")
