"""Plots of the stochastic-neuron experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE
from .records import DIGITS, EXPECTED, LINEAR, MNIST, NR, PARITY, RELU, SBN, SLOPE, ST, STS, UNITS, Trained, of

if TYPE_CHECKING:
    import matplotlib.figure

LOOKS = {
    NR: (BLUE, "-"),
    RELU: (GRAY, "-"),
    STS: (GREEN, "-"),
    ST: (ORANGE, "-"),
    SLOPE: (ORANGE, ":"),
    SBN: (BLUE, ":"),
}


def figures(records: Sequence[Trained]) -> list[Figure]:
    """Accuracy during training."""
    tasks = [task for task in (DIGITS, PARITY, MNIST) if any(r.task == task for r in records)]
    return [
        Figure(
            "Accuracy during training",
            "On held-out images; a line for each seed. Dashed: logistic regression. Diamonds: another program's seeds.",
            lambda figure: _curves(figure, records, tasks),
            (4.0 * len(tasks), 3.6),
        )
    ]


def _curves(figure: matplotlib.figure.Figure, records: Sequence[Trained], tasks: Sequence[str]) -> None:
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for unit in UNITS:
            color, line = LOOKS[unit]
            for place, record in enumerate(of(records, task, unit)):
                done = [(i + 1) / len(record.curve) for i in range(len(record.curve))]
                label = unit if place == 0 else None
                axes.plot(done, record.curve, line, color=color, label=label, linewidth=1.2)
            for value in EXPECTED.get((task, unit), ()) if of(records, task, unit) else ():
                axes.plot(1.03, value, "D", color=color, fillstyle="none", markersize=4)
        for record in of(records, task, LINEAR):
            axes.axhline(record.accuracy, color="black", linestyle="--", linewidth=0.8)
        axes.set(title=task, xlabel="share of the training", ylim=(0.98 if task == MNIST else 0.8, 1.0))
    axes.legend(loc="lower right", fontsize=7)
    figure.axes[0].set_ylabel("accuracy")
