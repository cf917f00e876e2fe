"""Plots of the PV-RNN experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, ORANGE, bare, plain_log
from .records import LARGE, MIDDLE, SMALL, WEIGHTS, Record, of_w

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Record]) -> list[Figure]:
    """Grammar and coin by w, and free runs."""
    return [
        Figure(
            "Grammar and coin",
            "Free runs: share of cycles that keep the grammar, and the rate of 1 at the random symbol. Dots are seeds.",
            lambda figure: _rates(figure, records),
            (6.0, 3.2),
        ),
        Figure(
            "Free runs",
            "The last symbols of six free runs, 1 dark. A cycle is 1, 0 and a coin that shows 1 in 30 % of cases.",
            lambda figure: _runs(figure, records),
            (8.0, 2.4),
        ),
    ]


def _rates(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    axes = figure.subplots()
    networks = [r for w in WEIGHTS for r in of_w(records, w)]
    for name, color in (("grammar", BLUE), ("coin", ORANGE)):
        label = {"grammar": "cycles that keep the grammar", "coin": "rate of 1 at the coin"}[name]
        axes.plot([r.w for r in networks], [getattr(r, name) for r in networks], "o", color=color, label=label)
    axes.axhline(0.3, color=ORANGE, linewidth=0.8, linestyle=":")
    axes.set(xlabel="w", ylim=(-0.03, 1.03))
    plain_log(axes, "x", WEIGHTS)
    axes.legend(loc="center right")


def _runs(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    for axes, w in zip(figure.subplots(1, 3), (LARGE, MIDDLE, SMALL), strict=True):
        axes.imshow(of_w(records, w)[0].shown, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest")
        axes.set_title(f"w = {w:g}")
        bare(axes)
