"""Plots of the experiment with deep kernel machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE
from .records import EXPECTED, WIDTHS, Classified, Regressed, classified

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Classified | Regressed]) -> list[Figure]:
    """Accuracy and NLL over the relative width."""
    caption = "Filled dots are ours, one for each seed; diamonds are those of another program. inf is the NNGP."
    return [Figure("Digits over the relative width nu", caption, lambda figure: _draw(figure, records))]


def _draw(figure: matplotlib.figure.Figure, records: Sequence[Classified | Regressed]) -> None:
    for axes, place, name in zip(figure.subplots(1, 2), (0, 1), ("accuracy", "NLL"), strict=True):
        for at, nu in enumerate(WIDTHS):
            for record in classified(records, nu):
                axes.plot(at, (record.accuracy, record.nll)[place], "o", color=BLUE)
                axes.plot(at, EXPECTED[record.seed][nu][place], "D", color="black", fillstyle="none")
        axes.set(xticks=range(len(WIDTHS)), xticklabels=[f"{nu:g}" for nu in WIDTHS], xlabel="nu", ylabel=name)
