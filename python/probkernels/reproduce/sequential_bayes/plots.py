"""Plots of the experiment on sequential Bayes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY
from .records import DIGITS, EXPECTED, JOINT, MEMORIES, SEQUENTIAL, WAYS, final, learned_of, stream_of

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Any]) -> list[Figure]:
    """Forgetting on the stream, and accuracy by the size of the memory."""
    return [
        Figure(
            "A filtered posterior forgets",
            "Accuracy on each task after each later one, blue and lighter for older tasks; gray, HMC on all tasks at"
            " once. One half is chance.",
            lambda figure: _stream(figure, records),
            (6.0, 3.2),
        ),
        Figure(
            "Memory",
            "Accuracy on ten digits, of which two came at a time, by the size of the memory. Dots are means over seeds,"
            " diamonds those of another program.",
            lambda figure: _memory(figure, records),
            (6.5, 3.4),
        ),
    ]


def _stream(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    rows = stream_of(records, SEQUENTIAL)[0].accuracy
    for task in range(len(rows)):
        values = [row[task] for row in rows[task:]]
        axes.plot(range(task + 1, len(rows) + 1), values, "o-", color=BLUE, alpha=(task + 1) / len(rows))
    axes.axhline(fmean(stream_of(records, JOINT)[0].accuracy[-1]), color=GRAY)
    axes.set(xlabel="tasks seen", ylabel="accuracy", ylim=(0.4, 1.02), xticks=range(1, len(rows) + 1))


def _memory(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    for place, way in enumerate(WAYS):
        sizes = [m for m in (0, *MEMORIES) if learned_of(records, DIGITS, way, m)]
        values = [final(learned_of(records, DIGITS, way, m)) for m in sizes]
        axes.plot(sizes, values, "o-", color=f"C{place}", label=way)
        expected = [(m, EXPECTED[way, m]) for m in (0, *MEMORIES) if (way, m) in EXPECTED]
        axes.plot(*zip(*expected, strict=True), "D", color=f"C{place}", fillstyle="none")
    axes.set(xlabel="examples in the memory", ylabel="accuracy", xticks=[0, *MEMORIES])
    axes.legend(loc="lower right", fontsize=8)
