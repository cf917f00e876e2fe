"""Plots of the scale-mixture experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, ORANGE, plain_log
from .records import BURR, DIABETES, EXPECTED, FAMILIES, FIXED, GAMMA, SIZES, Compared, gains, mean, of

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {FIXED: GRAY, GAMMA: BLUE, BURR: ORANGE}


def figures(records: Sequence[Compared]) -> list[Figure]:
    """Test NLL by number of points, and the gain of every split."""
    return [
        Figure(
            "A prior on the output scale",
            "Left: mean test NLL; diamonds: another program on other splits. Right: gain of the inverse gamma prior"
            " over a fixed scale, a dot for each split.",
            lambda figure: _draw(figure, records),
        )
    ]


def _draw(figure: matplotlib.figure.Figure, records: Sequence[Compared]) -> None:
    left, right = figure.subplots(1, 2)
    for family in FAMILIES:
        values = [mean(of(records, DIABETES, n), family) for n in SIZES]
        left.plot(SIZES, values, "-o", color=COLORS[family], label=family, markersize=4)
        expected = [EXPECTED[n][family] for n in SIZES]
        left.plot(SIZES, expected, "D", color=COLORS[family], fillstyle="none", markersize=5)
    left.legend()
    for n in SIZES:
        gained = gains(of(records, DIABETES, n))
        right.plot([n] * len(gained), gained, "o", color=BLUE, markersize=4, alpha=0.6)
    right.axhline(0, color="black", linewidth=0.8)
    for axes, label in ((left, "test NLL"), (right, "gain")):
        axes.set(xlabel="training points", ylabel=label)
        plain_log(axes, "x", SIZES)
