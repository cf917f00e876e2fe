"""Plots of the Inv-Entropy experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .records import DRAWN, EXPECTED, INV, NI, NR, POOLED, SCORES, Record, judged, mean_of, sources

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {INV: BLUE, NI: GREEN, NR: GREEN, POOLED: ORANGE}
PANELS = {"auroc": "AUROC", "tsu_two": "TSU at 0.3 and 1.4", "tsu_four": "TSU at four temperatures"}


def figures(records: Sequence[Record]) -> list[Figure]:
    """All scores of each source of paraphrases."""
    return [
        Figure(
            f"Scores: {source}",
            "Higher is better. Bars are means of the seeds, dots are seeds, diamonds what another program gave. AUROC:"
            " whether a reply is right. TSU: how often a score rises with the temperature.",
            lambda figure, source=source: _bars(figure, records, source),  # type: ignore[misc]
            (9.0, 4.0),
        )
        for source in sources(records)
    ]


def _bars(figure: matplotlib.figure.Figure, records: Sequence[Record], source: str) -> None:
    panels = figure.subplots(1, len(PANELS), sharey=True)
    names = [score for score in SCORES if judged(records, source, score)]
    for column, (axes, (what, title)) in enumerate(zip(panels, PANELS.items(), strict=True)):
        for place, score in enumerate(names):
            values = [getattr(record, what) for record in judged(records, source, score)]
            axes.barh(place, mean_of(records, source, score, what), color=COLORS.get(score, GRAY), alpha=0.6)
            axes.plot(values, [place] * len(values), ".", color="black", markersize=3)
            expected = EXPECTED[score][column] if source == DRAWN and score in EXPECTED else None
            if expected is not None:
                axes.plot(expected, place, "D", color="black", fillstyle="none", markersize=5)
        axes.set(title=title, xlim=(0, 1))
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(names)), names, fontsize=7)
    panels[0].invert_yaxis()
