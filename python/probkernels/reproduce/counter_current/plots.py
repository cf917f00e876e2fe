"""Plots of the counter-current experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.method import Figure
from ..harness.style import BLUE, GRAY, GREEN, ORANGE, plain_log
from .records import (
    AUTOGRAD,
    BLOCKWISE,
    BP,
    CLOSED,
    CODE,
    DEPTHS,
    DIGITS,
    FASHION,
    FORMS,
    FROZEN,
    LAST,
    LINEAR,
    MNIST,
    MNIST1D,
    NORMALIZED,
    PLAIN,
    RULES,
    Kept,
    Trained,
    kept,
    of,
)  # fmt: skip

if TYPE_CHECKING:
    import matplotlib.figure

COLORS = {BP: GRAY, CODE: BLUE, NORMALIZED: GREEN, FROZEN: ORANGE, LAST: "black", LINEAR: "#cc79a7"}
OF_FORMS = {PLAIN: GRAY, AUTOGRAD: ORANGE, BLOCKWISE: GREEN, CLOSED: BLUE}


def figures(records: Sequence[Trained | Kept]) -> list[Figure]:
    """Memory against depth, and accuracy against epochs."""
    data = [name for name in (DIGITS, MNIST1D, MNIST, FASHION) if of(records, name, CODE)]
    return [
        Figure(
            "Memory against depth",
            "Bytes that a gradient keeps for its backward pass, at most at one time: width 128, 128 rows. What the"
            " closed form keeps is 0 for every depth; of the blockwise form only the states of ten label codes grow.",
            lambda figure: _memory(figure, records),
        ),
        Figure(
            "Accuracy on the test set",
            "After each epoch; a line is a seed.",
            lambda figure: _curves(figure, records, data),
            (8.0, 3.2 * len(data)),
        ),
    ]


def _memory(figure: matplotlib.figure.Figure, records: Sequence[Trained | Kept]) -> None:
    axes = figure.subplots()
    for form in FORMS:
        own = kept(records, form)
        axes.plot([r.depth for r in own], [r.size / 2**20 for r in own], "o-", color=OF_FORMS[form], label=form)
    plain_log(axes, "x", DEPTHS)
    axes.set(xlabel="layers", ylabel="MiB", ylim=(-0.1, None))
    axes.legend()


def _curves(figure: matplotlib.figure.Figure, records: Sequence[Trained | Kept], data: Sequence[str]) -> None:
    for axes, name in zip(figure.subplots(len(data), 1, squeeze=False)[:, 0], data, strict=True):
        for rule in RULES:
            for k, record in enumerate(of(records, name, rule)):
                label = rule if k == 0 else None
                epochs = range(1, len(record.curve) + 1)
                axes.plot(epochs, record.curve, color=COLORS[rule], label=label, linewidth=1)
        best = max(max(r.curve) for r in of(records, name, CODE))
        axes.set(title=name, xlabel="epoch", ylabel="accuracy", ylim=(best - 0.2, best + 0.02))
        axes.legend(fontsize=7, loc="lower right")
