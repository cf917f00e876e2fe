"""Plots of the experiment on utility-probability duality."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE, plain_log
from .records import EXPECTED, NOISE, SCALES, SHARES, mean_drawn, of_digits

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {0.0: GREEN, 0.15: "#56b4e9", NOISE: BLUE, 0.45: ORANGE}


def figures(records: Sequence[Any]) -> list[Figure]:
    """Accuracy by scale."""
    return [
        Figure(
            "Accuracy of a drawn class",
            "By the scale b of the Gibbs distribution, mean of the seeds, for each share of random training labels."
            " Dashed lines are the most probable class, which no b changes. The dotted line is the b of the best"
            " likelihood of noisy labels, at 30 %. Diamonds are what another program gave.",
            lambda figure: _by_scale(figure, records),
        )
    ]


def _by_scale(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    for share in SHARES:
        runs = of_digits(records, share)
        if runs:
            drawn = [mean_drawn(records, b, share) for b in SCALES]
            axes.plot(SCALES, drawn, "o-", color=COLORS[share], label=f"{100 * share:g} % random")
            axes.axhline(fmean(run.best for run in runs), color=COLORS[share], linestyle="--", linewidth=1)
    axes.plot(list(EXPECTED), [mean for mean, _ in EXPECTED.values()], "D", color="black", fillstyle="none")
    axes.axvline(fmean(run.nll_b for run in of_digits(records)), color=GRAY, linestyle=":")
    plain_log(axes, "x", SCALES)
    axes.set(xlabel="b", ylabel="accuracy", ylim=(0, 1))
    axes.legend(loc="lower right")
