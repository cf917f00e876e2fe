"""Plots of the h-calibration experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .records import BEFORE, ENSEMBLE, EXPECTED, LIKELIHOOD, LINEAR, MAPS, TS, Calibrated, mean_of, runs_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLORS = {BEFORE: GRAY, LIKELIHOOD: ORANGE, TS: BLUE, ENSEMBLE: "#56b4e9", LINEAR: GREEN}


def figures(records: Sequence[Calibrated]) -> list[Figure]:
    """Reliability diagrams and calibration errors of every data set."""
    names = list(dict.fromkeys(record.data for record in records))
    return [
        Figure(
            "Reliability",
            "How often the predicted class is right, by its probability, in one seed. On the diagonal the"
            " probabilities are honest; below it the classifier is too sure. The larger a dot, the more samples.",
            lambda figure: _reliability(figure, records, names),
            (3.2 * max(len(names), 2), 3.4),
        ),
        Figure(
            "Calibration error",
            "ECE of 15 bins, mean of the seeds; lower is better. Diamonds are what another program gave.",
            lambda figure: _errors(figure, records, names),
            (8.0, 1.0 + 1.3 * len(names)),
        ),
    ]


def _reliability(figure: matplotlib.figure.Figure, records: Sequence[Calibrated], names: list[str]) -> None:
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, data in zip(panels, names, strict=True):
        axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
        for way in (BEFORE, TS, LINEAR):
            for run in runs_of(records, data, way)[:1]:
                probs, found, counts = zip(*run.bins, strict=True)
                sizes = [8 + 120 * count / sum(counts) for count in counts]
                axes.plot(probs, found, color=COLORS[way], linewidth=1)
                axes.scatter(probs, found, sizes, color=COLORS[way], label=way, alpha=0.8, linewidths=0)
        axes.set(title=data, xlabel="probability", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels[0].set_ylabel("right")
    panels[0].legend(loc="upper left", fontsize=7)


def _errors(figure: matplotlib.figure.Figure, records: Sequence[Calibrated], names: list[str]) -> None:
    axes = figure.subplots()
    place, ticks = 0, []
    for data in names:
        for way in (BEFORE, LIKELIHOOD, *MAPS):
            if runs_of(records, data, way):
                axes.barh(place, mean_of(records, data, way, "ece"), color=COLORS[way])
                if (data, way) in EXPECTED:
                    axes.plot(EXPECTED[data, way][0], place, "D", color="black", fillstyle="none", markersize=5)
                ticks.append((place, f"{data}: {way}"))
                place += 1
        place += 1
    axes.set_yticks(*zip(*ticks, strict=True), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ECE")
    axes.grid(axis="y", visible=False)
