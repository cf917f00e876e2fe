"""Plots of the PSI experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from .records import EXACT_SOURCE, Scene, scenes

if TYPE_CHECKING:
    import matplotlib.figure

TITLES = ("first frame", "second frame", "KL (nats)", "dot product of pokes", "probability of motion")


def figures(records: Sequence[object]) -> list[Figure]:
    """What is read off one scene, by each predictor."""
    shown = scenes(records)
    return [
        Figure(
            "Structure of one scene",
            "An object moves down by one patch. The code of one of its patches (red) is flipped in the first frame: KL"
            " tracing finds where it went (black ring: the truth). Pokes at the same patch move the whole object, which"
            " is its segment; what can move is the object alone.",
            lambda figure: _maps(figure, shown),
            (10.0, 0.4 + 2.2 * len(shown)),
        )
    ]


def _maps(figure: matplotlib.figure.Figure, shown: Sequence[Scene]) -> None:
    panels = figure.subplots(len(shown), len(TITLES), squeeze=False)
    for row, scene in zip(panels, shown, strict=True):
        maps = (scene.frame0, scene.frame1, scene.kl, scene.dot, scene.motion)
        for axes, map_, title in zip(row, maps, TITLES, strict=True):
            colors = "Greys" if "frame" in title else "viridis"
            image = axes.imshow(map_, cmap=colors)
            axes.set(title=title, xticks=[], yticks=[])
            axes.grid(visible=False)
            if "frame" in title:
                for (r, c), code in {(r, c): map_[r][c] for r in range(6) for c in range(6) if map_[r][c]}.items():
                    axes.text(c, r, f"{code:.0f}", ha="center", va="center", color="tab:orange", fontsize=8)
            else:
                figure.colorbar(image, ax=axes, shrink=0.7)
        for axes in (row[0], row[3]):
            axes.plot(scene.tracer[1], scene.tracer[0], "o", fillstyle="none", color="red", markersize=11)
        for axes in (row[1], row[2]):
            axes.plot(scene.target[1], scene.target[0], "o", fillstyle="none", color="black", markersize=11)
        source = "exact predictor" if scene.source == EXACT_SOURCE else "trained network"
        row[0].set_ylabel(source)
