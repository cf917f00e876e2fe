"""One look for all plots: colors, fonts, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.axes

BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "#999999"

PLOT_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.edgecolor": "#999999",
    "legend.frameon": False,
}


def plain_log(axes: matplotlib.axes.Axes, which: str, ticks: Sequence[float]) -> None:
    """Makes a logarithmic axis with plain numbers at the ticks inside its range."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def bare(axes: matplotlib.axes.Axes) -> None:
    """Removes ticks and grid; leaves a thin frame. For images."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color="#cccccc", linewidth=0.6)
