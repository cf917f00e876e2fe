"""Plots of the SaRA experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import plain_log
from .model import NEW_CLASS, OLD_CLASSES
from .records import EXPECTED, EXPECTED_ZEROED, SAMPLED, Pretrained, Record, Tuned

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


COLORS = {
    "smallest (SaRA)": "#0072b2",
    "smallest, progressive": "#56b4e9",
    "smallest, lr 3e-3": "#00406b",
    "random": "#999999",
    "random, second draw": "#555555",
    "largest": "#d55e00",
    "all weights": "#e69f00",
    "all weights, lr 1e-4": "#b8860b",
    "LoRA": "#009e73",
    "LoRA, lr 3e-4": "#00573f",
    "SHiRA (peft)": "#cc79a7",
}
CHOICES = {"smallest": COLORS["smallest (SaRA)"], "random": COLORS["random"], "largest": COLORS["largest"]}


def figures(records: Sequence[Record]) -> list[Figure]:
    """Fit against prior, samples, and what zeroing weights does."""
    bases, tuned = of_kind(records, Pretrained), of_kind(records, Tuned)
    long = [run for run in tuned if run.recipe in COLORS]
    shown = [run for run in long if run.recipe in SAMPLED and run.seed == bases[0].seed]
    return [
        Figure(
            "What is learned and what is forgotten",
            "Lower left is better. Left: the path of each recipe, mean of the seeds, from step 200 to its end at the"
            " dot, on 4,000 points. Right: the ends, on 20,000 points; small dots are seeds, large ones their means,"
            " diamonds the means that were expected.",
            lambda figure: _trade(figure, long),
            (8.0, 4.2),
        ),
        Figure(
            "Samples after fine-tuning",
            f"Seed {bases[0].seed}. Gray: where the data are, old classes in rings and the new one on two arcs. Dark:"
            " samples of the old classes, blurred where the prior is lost. Color: samples of the new class, whose"
            " arcs no recipe resolves in so few steps.",
            lambda figure: _samples(figure, shown),
            (8.0, 2.1),
        ),
        Figure(
            "Which weights does the model use?",
            "Loss on old data after setting some weights of the pre-trained model to zero, mean of the seeds; diamonds"
            " are the figures expected for seed 0. Dashed: the whole model. A fifth of the weights, the smallest,"
            " is of no use to it.",
            lambda figure: _zeroing(figure, bases),
            (8.0, 3.4),
        ),
    ]


def _trade(figure: matplotlib.figure.Figure, tuned: Sequence[Tuned]) -> None:
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(run.recipe for run in tuned):
        runs = [run for run in tuned if run.recipe == name]
        path = [
            [fmean(point[i] for point in points) for i in (1, 2)]
            for points in zip(*(r.trace for r in runs), strict=True)
        ]
        new, old = fmean(run.new for run in runs), fmean(run.old for run in runs)
        left.plot(*zip(*path[1:], strict=True), color=COLORS[name], linewidth=1.4, alpha=0.85)
        left.plot(*path[-1], "o", color=COLORS[name], markersize=5)
        right.plot([r.new for r in runs], [r.old for r in runs], "o", color=COLORS[name], alpha=0.45, markersize=3)
        right.plot(new, old, "o", color=COLORS[name], markersize=7, label=name)
        if name in EXPECTED:
            right.plot(*EXPECTED[name][:2], "D", color=COLORS[name], fillstyle="none", markersize=6)
    left.set(title="during training", xlabel="loss on new data", ylabel="loss on old data")
    plain_log(left, "x", (0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3))
    plain_log(left, "y", (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1))
    right.set(title="at the end", xlabel="loss on new data")
    right.legend(loc="upper right", fontsize=7.5)


def _samples(figure: matplotlib.figure.Figure, tuned: Sequence[Tuned]) -> None:
    from matplotlib.patches import Circle

    panels = figure.subplots(1, len(tuned), sharex=True, sharey=True, squeeze=False)[0]
    for axes, run in zip(panels, tuned, strict=True):
        for k in range(OLD_CLASSES):
            angle = 2 * math.pi * k / OLD_CLASSES
            axes.add_patch(Circle((2 * math.cos(angle), 2 * math.sin(angle)), 0.25, color="#bbbbbb", fill=False))
        for side in (1, -1):  # the moons, (x, y) and (-x, -y)
            arc = [(1.5 * side * (math.cos(u / 20) - 0.5), 1.5 * side * (math.sin(u / 20) - 0.25)) for u in range(63)]
            axes.plot(*zip(*arc, strict=True), color="#bbbbbb", linewidth=1)
        for new, color in ((False, "#444444"), (True, COLORS[run.recipe])):
            points = [(x, y) for x, y, label in run.points if (label == NEW_CLASS) == new]
            axes.plot(*zip(*points, strict=True), ".", color=color, markersize=2.2, alpha=0.7)
        axes.spines[:].set_visible(False)
        axes.set(title=run.recipe, xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), xticks=[], yticks=[], aspect="equal")


def _zeroing(figure: matplotlib.figure.Figure, bases: Sequence[Pretrained]) -> None:
    axes = figure.subplots()
    shares = sorted({share for _, share in bases[0].zeroed})
    for choice, color in CHOICES.items():
        curve = [fmean(base.zeroed[choice, share] for base in bases) for share in shares]
        axes.plot([100 * share for share in shares], curve, "o-", color=color, markersize=4, label=choice)
        expected = [(100 * share, loss) for (which, share), loss in EXPECTED_ZEROED.items() if which == choice]
        axes.plot(*zip(*expected, strict=True), "D", color=color, fillstyle="none", markersize=7)
    axes.axhline(fmean(base.old for base in bases), color="#666666", linewidth=0.8, linestyle="--")
    axes.set(xlabel="weights set to zero, %", ylabel="loss on old data")
    plain_log(axes, "y", (0.06, 0.1, 0.2, 0.4, 0.7, 1))
    axes.legend(title="which weights")
