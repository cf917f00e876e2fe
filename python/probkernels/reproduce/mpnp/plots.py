"""Plots of the MPNP experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, ORANGE
from .records import CNP, EXACT, MPNP, SETTINGS, TESTS, WAYS, Judged, of

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {CNP: ORANGE, MPNP: BLUE}


def figures(records: Sequence[Judged]) -> list[Figure]:
    """Joint densities of every setting."""
    settings = [setting for setting in SETTINGS if of(records, setting, MPNP)]
    return [
        Figure(
            "Joint densities",
            "Joint log density a target, higher is better. Dots are seeds, diamonds exact densities.",
            lambda figure: _densities(figure, records, settings),
            (8.0, 0.8 + 1.5 * len(settings)),
        )
    ]


def _densities(figure: matplotlib.figure.Figure, records: Sequence[Judged], settings: list[str]) -> None:
    panels = figure.subplots(len(settings), 1, squeeze=False)[:, 0]
    for axes, setting in zip(panels, settings, strict=True):
        tests = TESTS[setting]
        for place, test in enumerate(tests):
            for way in WAYS:
                values = [r.found[test][1] for r in of(records, setting, way)]
                axes.plot(values, [place] * len(values), "o", color=COLORS[way], label=None if place else way)
            if test in EXACT:
                axes.plot(EXACT[test][1], place, "D", color=GRAY, fillstyle="none")
        axes.set(title=setting, yticks=range(len(tests)), yticklabels=tests, ylim=(len(tests) - 0.5, -0.5))
        axes.legend()
    panels[-1].set_xlabel("joint log density a target")
