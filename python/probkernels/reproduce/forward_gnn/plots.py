"""Plots of the forward-learning experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, ORANGE
from .records import BLOCKS, BP, CORA, CORA_ML, DEPTHS, EXPECTED, LINEAR, SF, Memory, Trained, accuracies, kept, mean

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {SF: BLUE, BP: ORANGE, LINEAR: GRAY}


def figures(records: Sequence[Trained | Memory]) -> list[Figure]:
    """Accuracy and memory against depth."""
    return [
        Figure(
            "Accuracy by depth",
            "On test nodes. Dots are splits, lines their means, diamonds what is reported for the paper's code.",
            lambda figure: _accuracy(figure, records),
        ),
        Figure(
            "Bytes kept for the backward pass",
            "The most at any time of one training step. Single-forward learning keeps one layer's at every depth.",
            lambda figure: _memory(figure, records),
        ),
    ]


def _accuracy(figure: matplotlib.figure.Figure, records: Sequence[Trained | Memory]) -> None:
    names = [name for name in (CORA_ML, CORA, BLOCKS) if accuracies(records, name, SF, 1)]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for way in (SF, BP):
            means = [mean(records, name, way, depth) for depth in DEPTHS]
            axes.plot(DEPTHS, means, color=COLORS[way], label=way)
            for depth in DEPTHS:
                own = accuracies(records, name, way, depth)
                axes.plot([depth] * len(own), own, "o", color=COLORS[way], alpha=0.5, markersize=4)
            if (name, way) in EXPECTED:
                axes.plot(DEPTHS, EXPECTED[name, way], "D", color=COLORS[way], fillstyle="none", markersize=6)
        axes.axhline(mean(records, name, LINEAR, 1), color=COLORS[LINEAR], linestyle="--", label=LINEAR)
        axes.set(title=name, xlabel="layers", ylabel="accuracy, %", xticks=DEPTHS)
    axes.legend(fontsize=8)


def _memory(figure: matplotlib.figure.Figure, records: Sequence[Trained | Memory]) -> None:
    axes = figure.subplots()
    for way in (SF, BP):
        own = sorted(kept(records, way).items())
        axes.plot([depth for depth, _ in own], [count / 2**20 for _, count in own], "o-", color=COLORS[way], label=way)
    axes.set(xlabel="layers", ylabel="MiB", ylim=(0, None))
    axes.legend(fontsize=8)
