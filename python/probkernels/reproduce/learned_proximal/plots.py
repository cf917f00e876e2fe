"""Plots of the experiment with learned proximal networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GREEN, ORANGE
from .records import L1, L2, PM, WAYS, Trained, cases, of, soft

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {L2: ORANGE, L1: GREEN, PM: BLUE}


def figures(records: Sequence[Trained]) -> list[Figure]:
    """Denoisers and priors."""
    caption = (
        "Left: the denoisers f; the dashed line is the soft threshold, the mode of the posterior. Right: the"
        " regularizers of which they are the proximal operators; the dashed line is |x|, the true negative log-prior."
    )
    return [Figure("Denoisers and their priors", caption, lambda figure: _draw(figure, records), (9.0, 3.6))]


def _draw(figure: matplotlib.figure.Figure, records: Sequence[Trained]) -> None:
    left, right = figure.subplots(1, 2)
    case = cases(records)[-1]
    for way in WAYS:
        found = of(records, way, case)
        left.plot(*zip(*found.curve, strict=True), color=COLORS[way], label=way)
        right.plot(*zip(*found.prior, strict=True), color=COLORS[way], label=way)
    ys = [y for y, _ in of(records, PM, case).curve]
    xs = [x for x, _ in of(records, PM, case).prior]
    left.plot(ys, [soft(y) for y in ys], "--", color="black", linewidth=1, label="soft threshold")
    right.plot(xs, [abs(x) for x in xs], "--", color="black", linewidth=1, label="|x|")
    for axes, name, value in ((left, "y", "f(y)"), (right, "x", "R(x)")):
        axes.set_xlabel(name)
        axes.set_ylabel(value)
        axes.legend(frameon=False, fontsize=8)
