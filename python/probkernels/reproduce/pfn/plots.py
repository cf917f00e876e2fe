"""Plots of the experiment on prior-fitted networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import BLUE, GRAY, ORANGE
from .records import BARS, EXPECTED_GAPS, GAUSSIAN, SHEET, SMALL, Coins, Tabular, fitted_of, ranks

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Sequence[Any]) -> list[Figure]:
    """Gaps to the exact posterior, the coins, and ranks on real tables."""
    found = [
        Figure(
            "Gap to the exact posterior",
            "Nats above the exact Gaussian process by number of contexts: bars in blue, darker with more steps; a"
            " Gaussian head in orange; diamonds, another program.",
            lambda figure: _gaps(figure, records),
            (6.0, 3.4),
        ),
        Figure(
            "Coins",
            "Probability of a one after 19 labels, by the number of ones: dots the network, line (1 + k) / (2 + n).",
            lambda figure: _coins(figure, records),
            (4.5, 3.2),
        ),
    ]
    if of_kind(records, Tabular):
        found.append(
            Figure(
                "Real tables",
                "Mean rank of ROC AUC (1 is best) and calibration error of each model, of 30 training rows.",
                lambda figure: _tables(figure, records),
                (5.0, 3.4),
            )
        )
    return found


def _gaps(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    setting = SHEET if fitted_of(records, SHEET, BARS) else SMALL
    for head, color in ((BARS, BLUE), (GAUSSIAN, ORANGE)):
        runs = fitted_of(records, setting, head)
        for place, run in enumerate(runs):
            strength = (place + 1) / len(runs)
            label = f"{head}, {run.steps} steps"
            axes.plot(list(run.gap), list(run.gap.values()), "o-", color=color, alpha=strength, label=label)
            expected = EXPECTED_GAPS.get((head, run.steps), {}) if setting == SHEET else {}
            axes.plot(list(expected), list(expected.values()), "D", color=color, alpha=strength, fillstyle="none")
    axes.set(xlabel="contexts", ylabel="nats above the exact posterior", ylim=(0, None))
    axes.legend()


def _coins(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    exact, found = of_kind(records, Coins)[0].curve
    axes.plot(range(len(exact)), exact, color=GRAY)
    axes.plot(range(len(found)), found, "o", color=BLUE)
    axes.set(xlabel="ones among 19 labels", ylabel="probability of a one", xticks=range(0, 20, 5))


def _tables(figure: matplotlib.figure.Figure, records: Sequence[Any]) -> None:
    axes = figure.subplots()
    for place, (name, (rank, _, ece)) in enumerate(ranks(records).items()):
        axes.plot(rank, ece, "o", color=f"C{place}", label=name)
    axes.set(xlabel="mean rank of AUC", ylabel="calibration error", ylim=(0, None))
    axes.legend()
