"""Pictures and plots of the compression experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.records import of_kind
from .records import Classic, Coded, Costs, Record

if TYPE_CHECKING:
    import matplotlib.figure

OURS, OTHERS = "#0072b2", "#999999"


def figures(records: Sequence[Record]) -> list[Figure]:
    """Sizes as bars, and what each pixel costs; those that there are records for."""
    found = []
    for data in dict.fromkeys(file.data for file in of_kind(records, Coded)):
        bars = _bars(records, data)
        found.append(
            Figure(
                f"{data}: bits a pixel",
                "Whole files of the test images; blue: circuits, without the model; gray: other compressors.",
                lambda figure, bars=bars: _draw_bars(figure, bars),  # type: ignore[misc]
                (8.0, 0.6 + 0.27 * len(bars)),
            )
        )
    for costs in of_kind(records, Costs):
        found.append(
            Figure(
                f"{costs.data}: what each pixel costs",
                "Above test images, below the bits that each of their pixels takes, given those coded before it. Paper"
                " and the inside of strokes are nearly free; edges are paid for.",
                lambda figure, costs=costs: _draw_costs(figure, costs),  # type: ignore[misc]
                (8.0, 2.2),
            )
        )
    return found


def _bars(records: Sequence[Record], data: str) -> list[tuple[str, float, str]]:
    """Name, bits a pixel and color, the smallest first."""
    files = [file for file in of_kind(records, Coded) if file.data == data]
    found = [
        (model, fmean(file.bits for file in files if file.model == model), OURS)
        for model in dict.fromkeys(file.model for file in files)
    ]
    found += [(other.name, other.bits, OTHERS) for other in of_kind(records, Classic) if other.data == data]
    return sorted(found, key=lambda bar: bar[1])


def _draw_bars(figure: matplotlib.figure.Figure, bars: Sequence[tuple[str, float, str]]) -> None:
    axes = figure.subplots()
    names, bits, colors = zip(*bars, strict=True)
    axes.barh(names, bits, color=colors)
    for place, value in enumerate(bits):
        axes.text(value, place, f" {value:.3f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("bits a pixel")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_costs(figure: matplotlib.figure.Figure, costs: Costs) -> None:
    count, side = len(costs.images), math.isqrt(costs.images.shape[1])
    panels = figure.subplots(2, count, squeeze=False)
    most = float(costs.bits.quantile(0.995))
    for place in range(count):
        above, below = panels[:, place]
        above.imshow(costs.images[place].view(side, side).numpy(), cmap="gray_r", vmin=0, vmax=costs.categories - 1)
        shown = below.imshow(costs.bits[place].view(side, side).numpy(), cmap="magma_r", vmin=0, vmax=most)
        below.set_xlabel(f"{float(costs.bits[place].mean()):.2f}", fontsize=8)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    bar = figure.colorbar(shown, ax=panels, shrink=0.9, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("bits", fontsize=8)
