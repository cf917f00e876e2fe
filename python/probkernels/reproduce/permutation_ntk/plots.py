"""Plots of the experiment with permutations."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from ...kernel_methods import success_probability
from ..harness.method import Figure
from ..harness.style import BLUE, ORANGE, plain_log
from .records import COUNTS, KINDS, NTK, STANDARD, Records, drawn, trained

if TYPE_CHECKING:
    import matplotlib.figure


def figures(records: Records) -> list[Figure]:
    """Exact inputs over the number of networks; numbers of networks over the number of bits."""
    caption = (
        "Left: dots are trained networks of 5 bits, lines the exact probability. Right: infinitely wide networks; the"
        " bound for all inputs grows as the square of k."
    )
    return [Figure("Exact learning of permutations", caption, lambda figure: _draw(figure, records))]


def _draw(figure: matplotlib.figure.Figure, records: Records) -> None:
    left, right = figure.subplots(1, 2)
    for way, color in ((NTK, BLUE), (STANDARD, ORANGE)):
        own = trained(records, way)
        left.plot(COUNTS, [fmean(r.exact[n] for r in own) for n in COUNTS], "o", color=color, label=way)
        left.plot(COUNTS, [success_probability(5, 2, n, KINDS[way]) for n in COUNTS], color=color)
    left.set(xlabel="networks in the mean", ylabel="share of exact inputs")
    plain_log(left, "x", COUNTS)
    left.legend()
    found = drawn(records)
    bits = [r.k for r in found]
    right.plot(bits, [r.networks for r in found], "-o", color=BLUE, markersize=4, label="one input, probability 0.9")
    right.plot(bits, [r.bound_one for r in found], "--", color=BLUE, label="one input, bound")
    right.plot(bits, [r.bound_all for r in found], "--", color=ORANGE, label="all inputs, bound")
    right.set(xlabel="k", ylabel="networks", yscale="log")
    plain_log(right, "x", bits)
    right.legend()
