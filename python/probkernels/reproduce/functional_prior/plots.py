"""Plots of functional priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .records import EXACT, FITTED, FIXED, PRIORS, TOY, Drawn, Record, judged, matched

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {FIXED: ORANGE, FITTED: BLUE, EXACT: GREEN}


def figures(records: Sequence[Record]) -> list[Figure]:
    """The fits, and posteriors of the first data set."""
    return [
        Figure(
            "Distance of the prior to the Gaussian process",
            "Energy distance of 1,000 functions of each, by iteration. Lines are seeds.",
            lambda figure: _fits(figure, records),
        ),
        Figure(
            "Posteriors of one function",
            "Black: the function. Dots: observations. Lines and bands: mean and two standard deviations.",
            lambda figure: _posteriors(figure, records),
            (9.0, 3.2),
        ),
    ]


def _fits(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    axes = figure.subplots()
    for fit in matched(records, TOY):
        axes.plot(*zip(*fit.trace, strict=True), color=BLUE)
    axes.set(xlabel="iterations", ylabel="energy distance", ylim=(0, None))


def _posteriors(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    data = next(r for r in records if isinstance(r, Drawn))
    panels = figure.subplots(1, len(PRIORS), sharey=True)
    for axes, prior in zip(panels, PRIORS, strict=True):
        own = next(r for r in judged(records, TOY, prior) if (r.seed, r.number) == (data.seed, data.number))
        mean, std = own.curve
        low, high = ([m + side * s for m, s in zip(mean, std, strict=True)] for side in (-2, 2))
        axes.fill_between(data.grid, low, high, color=COLORS[prior], alpha=0.25, linewidth=0)
        axes.plot(data.grid, mean, color=COLORS[prior])
        axes.plot(data.grid, data.truth, color="black", linewidth=1)
        axes.plot(data.x, data.y, ".", color=GRAY)
        axes.set(title=prior, xlabel="x")
