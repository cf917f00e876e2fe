"""Reliability diagrams."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from .._core.errors import message
from .calibration import ReliabilityBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability_plot(bins: ReliabilityBins, ax: Axes | None = None) -> Axes:
    """Draws a reliability diagram: the frequency in each bin above its mean probability, and the share of each bin.

    Args:
        bins: what :func:`reliability` gives, for one event: pick a class of a class-wise result first.
        ax: matplotlib axes to draw on. None makes a new figure.

    Returns:
        The axes. To save the figure: ``reliability_plot(bins).figure.savefig("reliability.png")``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the bins of several classes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import reliability, reliability_plot
        >>> p, y = torch.tensor([0.1, 0.3, 0.9]), torch.tensor([0, 1, 1])
        >>> reliability_plot(reliability(p, y, bins=5)).get_xlabel()
        'mean probability'
    """
    if bins.count.ndim != 1:
        hint = "ReliabilityBins(*(field[c] for field in bins)) picks class c"
        got = f"shape {tuple(bins.count.shape)}"
        raise ValueError(message("reliability_plot", "bins", "counts of shape (bins,)", got, hint))
    if importlib.util.find_spec("matplotlib") is None:
        hint = "pip install probkernels[report]"
        raise ImportError(f"reliability_plot: needs matplotlib, which is not installed. Hint: {hint}")
    if ax is None:
        from matplotlib.figure import Figure  # not pyplot: it would keep the figure and look for a display

        ax = Figure(figsize=(4, 4), layout="constrained").add_subplot()
    edges, confidence, accuracy, count = (field.detach().cpu().double().numpy() for field in bins)
    filled = count > 0
    share = count / count.sum()
    ax.bar(edges[:-1], share, edges[1:] - edges[:-1], align="edge", color="#dddddd", label="share of samples")
    ax.plot([0, 1], [0, 1], "--", color="#444444", linewidth=1, label="calibrated")
    ax.plot(confidence[filled], accuracy[filled], "o-", color="#0072b2", label="measured")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean probability", ylabel="frequency", aspect="equal")
    ax.legend(loc="upper left", frameon=False)
    return ax
