"""Plots of the AdjointDPM experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import bare
from .records import CONTINUOUS, EXACT, EXPECTED_ATTACK, LENGTHS, NAMES, ONE_STEP, Attack, Bytes, Errors, Record, Tuning

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {EXACT: "#0072b2", CONTINUOUS: "#d55e00", ONE_STEP: "#999999", "autograd": "#444444", "reversible": "#009e73"}
INPUTS = {"x_T": "#0072b2", "condition": "#e69f00", "weights": "#009e73"}


def figures(records: Sequence[Record]) -> list[Figure]:
    """The attack, its images, and errors, bytes and tuning."""
    attacks = of_kind(records, Attack)
    return [
        Figure(
            "The attack on x_T",
            "Share of the samples that the classifier takes for the next digit, after each step of the attack: lines"
            " are means of the seeds, bands their range, diamonds what another program reached. With ten sampling steps"
            " the continuous adjoint points away from the goal.",
            lambda figure: _attack(figure, attacks),
            (8.0, 3.2),
        ),
        Figure(
            "Ten sampling steps, before and after the attack",
            "Above: samples asked to be 0 to 9. Below: after the attack towards the next digit, by either gradient.",
            lambda figure: _images(figure, attacks),
            (8.0, 2.9),
        ),
        Figure(
            "Errors, bytes and tuning",
            "Left: error of the continuous adjoint relative to the exact gradient of the same steps. Middle: what"
            " autograd keeps; exact adds one state a step, reversible nothing. Right: all weights are tuned until the"
            " model draws one image.",
            lambda figure: _measures(figure, records),
            (8.0, 3.4),
        ),
    ]


def _attack(figure: matplotlib.figure.Figure, attacks: Sequence[Attack]) -> None:
    lengths = sorted({a.steps for a in attacks})
    panels = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    for axes, steps in zip(panels, lengths, strict=True):
        for way in (EXACT, CONTINUOUS, ONE_STEP):
            curves = list(zip(*(a.success for a in attacks if (a.steps, a.gradient) == (steps, way)), strict=True))
            if not curves:
                continue
            ends = [[100 * pick(shares) for shares in curves] for pick in (fmean, min, max)]
            axes.plot(ends[0], color=COLORS[way], linewidth=1.8, label=way)
            axes.fill_between(range(len(curves)), *ends[1:], color=COLORS[way], alpha=0.18, linewidth=0)
            expected = 100 * EXPECTED_ATTACK[steps, way]
            axes.plot(len(curves) - 1, expected, "D", color=COLORS[way], fillstyle="none", clip_on=False)
        axes.set(title=f"{steps} sampling steps", xlabel="step of the attack", ylim=(-2, 102))
        axes.legend(loc="center right", bbox_to_anchor=(1, 0.3), fontsize=8)
    panels[0].set_ylabel("success, %")


def _images(figure: matplotlib.figure.Figure, attacks: Sequence[Attack]) -> None:
    shown = {a.gradient: a for a in attacks if a.steps == 10 and a.seed == 0}
    rows = [("before", shown[EXACT].before), (EXACT, shown[EXACT].after), (CONTINUOUS, shown[CONTINUOUS].after)]
    panels = figure.subplots(len(rows), len(rows[0][1]), squeeze=False)
    for line, (name, images) in zip(panels, rows, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(torch.tensor(image).view(8, 8).numpy(), cmap="Greys", vmin=-1, vmax=1)
            bare(axes)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)


def _measures(figure: matplotlib.figure.Figure, records: Sequence[Record]) -> None:
    left, middle, right = figure.subplots(1, 3)
    found = [e for e in of_kind(records, Errors) if e.way == "continuous adjoint"]
    for place, (name, color) in enumerate(INPUTS.items()):
        heights = [e.errors[place] for e in found]
        left.bar([i + 0.27 * (place - 1) for i in range(len(found))], heights, 0.27, color=color, label=name)
    names = [f"{NAMES.get(e.solver, e.solver).partition(' ')[0]}\n{e.steps}" for e in found]
    left.set(xticks=range(len(found)), xticklabels=names, yscale="log", title="error of the continuous adjoint")
    left.set_ylim(top=100)  # room for the legend
    left.tick_params(axis="x", labelsize=7)
    left.legend(loc="upper right", fontsize=7.5)
    for b in of_kind(records, Bytes):
        dashes = "--" if b.gradient == CONTINUOUS else "-"  # as much as exact keeps
        middle.plot(LENGTHS, [size / 2**20 for size in b.saved], dashes, color=COLORS[b.gradient], label=b.gradient)
    middle.set(xlabel="sampling steps", yscale="log", title="MiB kept for the backward pass", ylim=(None, 150))
    middle.legend(loc="upper right", fontsize=7.5, ncols=2)
    for t in of_kind(records, Tuning):
        right.plot(t.losses, color=COLORS[t.gradient], label=t.gradient)
    right.set(xlabel="step of tuning", title="distance from the goal", ylim=(0, None))
    right.legend(fontsize=7.5)
