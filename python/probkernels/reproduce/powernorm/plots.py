"""Plots of the PowerNorm experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from ..harness.method import Figure
from .records import EXPECTED, Run, Trace, validations

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


COLORS = {
    "LayerNorm": "#777777",
    "BatchNorm": "#e69f00",
    "RMSNorm": "#cc79a7",
    "PN-V": "#56b4e9",
    "PN (official mode)": "#009e73",
    "PowerNorm": "#0072b2",
}
STYLES = {"PN (official mode)": (0, (4, 2))}  # it runs so near PowerNorm that a full line would hide it


def figures(runs: Sequence[Run]) -> list[Figure]:
    """Training curves, final losses, and the state of PowerNorm in the first of its runs."""
    batches = sorted({run.batch for run in runs})
    norms = list(dict.fromkeys(run.norm for run in runs))
    traced = next(run for run in runs if run.norm == "PowerNorm" and run.batch == batches[0])
    return [
        Figure(
            "Validation loss",
            "Lower is better. Dots are seeds, lines their means, diamonds the means that the official code gave."
            " The axis does not start at 0.",
            lambda figure: _validation(figure, runs, norms, batches),
            (8.0, 0.9 + 0.42 * len(norms)),
        ),
        Figure(
            "Training",
            "Loss of the training batches, smoothed over some 50 steps, mean of the seeds. Right: the same minus that"
            " of LayerNorm, whose runs saw the same batches. What a norm loses from here to the plot above is its gap"
            " between training and evaluation.",
            lambda figure: _training(figure, runs, norms, batches),
            (8.0, 3.2 * len(batches)),
        ),
        Figure(
            "What PowerNorm keeps",
            f"Seed {traced.seed}, batch size {batches[0]}. Above: the mean square of one feature in each batch (dots)"
            " and the running mean square that divides it instead (line). Below: the running backward coefficient ν of"
            " all features, median and central 80 %.",
            lambda figure: _state(figure, traced.traces),
            (8.0, 4.4),
        ),
    ]


def _validation(figure: matplotlib.figure.Figure, runs: Sequence[Run], norms: list[str], batches: list[int]) -> None:
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        for place, norm in enumerate(norms):
            losses = validations(runs, norm, batch)
            axes.plot(losses, [place] * len(losses), "o", color=COLORS[norm], alpha=0.75, markeredgewidth=0)
            axes.plot([fmean(losses)] * 2, [place - 0.3, place + 0.3], color=COLORS[norm], linewidth=2.5)
            if (norm, batch) in EXPECTED:
                axes.plot(EXPECTED[norm, batch], place, "D", color="black", fillstyle="none", markersize=6)
        axes.set(title=f"batch size {batch}", xlabel="nats per character", yticks=range(len(norms)), yticklabels=norms)
        axes.set_ylim(len(norms) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)


def _smooth(losses: Sequence[float], keep: float = 0.98) -> list[float]:
    """Exponential average over the past 50 steps or so, without the pull of where it began."""
    average, curve = 0.0, []
    for step, loss in enumerate(losses, 1):
        average = keep * average + (1 - keep) * loss
        curve.append(average / (1 - keep**step))
    return curve


def _curve(runs: Sequence[Run], norm: str, batch: int) -> list[float]:
    """The smoothed training loss, mean over seeds."""
    chosen = [_smooth(run.losses) for run in runs if run.norm == norm and run.batch == batch]
    return [fmean(values) for values in zip(*chosen, strict=True)]


def _training(figure: matplotlib.figure.Figure, runs: Sequence[Run], norms: list[str], batches: list[int]) -> None:
    panels = figure.subplots(len(batches), 2, squeeze=False)
    for (left, right), batch in zip(panels, batches, strict=True):
        base = _curve(runs, "LayerNorm", batch)
        for norm in sorted(norms, key=lambda norm: norm in STYLES):
            curve = _curve(runs, norm, batch)
            style: dict[str, Any] = {"color": COLORS[norm], "linewidth": 1.4, "linestyle": STYLES.get(norm, "-")}
            left.plot(curve, label=norm, **style)
            right.plot([a - b for a, b in zip(curve, base, strict=True)], **style)
        left.set(title=f"batch size {batch}", ylabel="nats per character", xlabel="step", ylim=(None, _start(base)))
        right.set(title="minus LayerNorm", xlabel="step")
    panels[0][0].legend()


def _start(curve: list[float]) -> float:
    """Upper end of the axis: the first steps, far above all others, need no room."""
    return curve[len(curve) // 20] * 1.02


def _state(figure: matplotlib.figure.Figure, traces: Sequence[Trace]) -> None:
    panels = figure.subplots(2, len(traces), sharex=True, sharey="row", squeeze=False)
    places = [f"layer {layer}, {part}" for layer in (1, 2) for part in ("attention", "feed-forward")]
    for column, trace, place in zip(panels.T, traces, places, strict=True):
        above, below = column
        feature = _most_restless(trace)
        above.plot(trace.steps, [row[feature] for row in trace.batch], ".", color="#999999", markersize=3)
        above.plot(trace.steps, [row[feature] for row in trace.psi2], color=COLORS["PowerNorm"], linewidth=1.6)
        above.set_title(place, fontsize=9)
        tenths = [sorted(row) for row in trace.nu]
        low, high = ([row[int(share * (len(row) - 1))] for row in tenths] for share in (0.1, 0.9))
        below.fill_between(trace.steps, low, high, color=COLORS["PowerNorm"], alpha=0.25, linewidth=0)
        below.plot(trace.steps, [median(row) for row in tenths], color=COLORS["PowerNorm"], linewidth=1.4)
        below.set_xlabel("step")
    panels[0][0].set_ylabel("mean square")
    panels[1][0].set_ylabel("ν")


def _most_restless(trace: Trace) -> int:
    """The feature whose batch mean square strays most from the running one."""
    strays = [fmean(abs(b - p) for b, p in zip(*pair, strict=True)) for pair in _by_feature(trace)]
    return strays.index(max(strays))


def _by_feature(trace: Trace) -> list[tuple[Sequence[float], Sequence[float]]]:
    return list(zip(zip(*trace.batch, strict=True), zip(*trace.psi2, strict=True), strict=True))
