"""Pictures and plots of the circuits experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..harness.method import Figure
from ..harness.records import of_kind
from ..harness.style import BLUE, GRAY, GREEN, ORANGE, bare
from .records import FACTORIZED, LARGE, SMALL, Curve, Fit, Gallery, Record

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

HIDDEN = "#f3e3c8"
COLORS = {SMALL: BLUE, LARGE: "#00406b", "HCLT, M = 32": "#00263f"}
EXPECTED_DOTS = {("digits", SMALL): 2.054, ("digits", LARGE): 2.0495, ("digits", FACTORIZED): 2.394,
                 ("MNIST", LARGE): 1.2413, ("MNIST", "HCLT, M = 32"): 1.2113}  # fmt: skip


def figures(records: Sequence[Record]) -> list[Figure]:
    """Bits per dimension, completions, samples, the tree, and EM against Adam; those that there are records for."""
    found = []
    for gallery in of_kind(records, Gallery):
        found += _gallery_figures(gallery)
    if of_kind(records, Fit):
        found.insert(0, _bits_figure(records))
    if of_kind(records, Curve):
        found.append(_curve_figure(of_kind(records, Curve)))
    return found


def _gallery_figures(gallery: Gallery) -> list[Figure]:
    found = [
        Figure(
            f"{gallery.data}: the lower half from the upper one",
            "Test images. The circuit sees what is not tinted; the draws below are exact samples of all it does not"
            " see, given all it sees. Then the mean of all completions, and the one most probable together with its"
            " latent states, which falls on the commonest strokes.",
            lambda figure: _completions(figure, gallery),
            (8.0, 0.8 * (4 + len(gallery.completed.draws))),
        ),
        Figure(
            f"{gallery.data}: samples",
            "Thirty independent draws of each model. Strokes need pixels that know of one another.",
            lambda figure: _samples(figure, gallery),
            (8.0, 2.6 if len(gallery.samples) > 1 else 5.0),
        ),
    ]
    if gallery.parents:
        found.append(
            Figure(
                f"{gallery.data}: the tree",
                "Pixels joined by the Chow-Liu tree, on top of the mean of the ten digits above; the wider an edge, the"
                " more its two pixels tell of each other. The ring marks the root. Pixels that are always white tell"
                " nothing, and are joined to anything. In an HCLT the latents are joined in this way.",
                lambda figure: _tree(figure, gallery),
                (4.6, 4.0),
            )
        )
    return found


# --- images ---


def _panel(axes: matplotlib.axes.Axes, image: Tensor, categories: int, hidden: Tensor | None = None) -> None:
    """One image, (D,), dark on light; what is ``hidden`` tinted, and left out if the image has no values there."""
    side = math.isqrt(len(image))
    light = 1 - image.double().view(side, side, 1) / (categories - 1)
    rgb = light.expand(-1, -1, 3).clone()
    if hidden is not None:
        tint = torch.tensor([int(HIDDEN[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=torch.float64)
        rgb = torch.where(hidden.view(side, side, 1), rgb * tint, rgb)
    axes.imshow(rgb.numpy(), interpolation="nearest", vmin=0, vmax=1)
    bare(axes)


def _completions(figure: matplotlib.figure.Figure, gallery: Gallery) -> None:
    shown, hidden = gallery.completed, gallery.completed.hidden
    rows: list[tuple[str, Tensor, Tensor | None]] = [
        ("truth", shown.truth, None), ("seen", shown.truth.masked_fill(hidden, 0), hidden)
    ]  # fmt: skip
    rows += [(f"draw {i}", draw, hidden) for i, draw in enumerate(shown.draws, 1)]
    rows += [("mean", shown.mean, hidden), ("most\nprobable", shown.best, hidden)]
    panels = figure.subplots(len(rows), len(shown.truth), squeeze=False)
    for line, (name, images, tinted) in zip(panels, rows, strict=True):
        for axes, image in zip(line, images, strict=True):
            _panel(axes, image, gallery.categories, tinted)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)


def _samples(figure: matplotlib.figure.Figure, gallery: Gallery) -> None:
    panels = figure.subplots(1, len(gallery.samples), squeeze=False)[0]
    for axes, (name, images) in zip(panels, gallery.samples.items(), strict=True):
        _panel_of_many(axes, images, gallery.categories)
        axes.set_title(name)


def _panel_of_many(axes: matplotlib.axes.Axes, images: Tensor, categories: int, columns: int = 6) -> None:
    """Images (n, D) side by side, with gaps."""
    side = math.isqrt(images.shape[1])
    gap = max(side // 8, 1)
    rows = -(-len(images) // columns)
    sheet = torch.ones(rows * (side + gap) - gap, columns * (side + gap) - gap, 3, dtype=torch.float64)
    sheet *= torch.tensor([0.91, 0.93, 0.96], dtype=torch.float64)
    for place, image in enumerate(images):
        top, left = place // columns * (side + gap), place % columns * (side + gap)
        light = 1 - image.double().view(side, side, 1) / (categories - 1)
        sheet[top : top + side, left : left + side] = light
    axes.imshow(sheet.numpy(), interpolation="nearest")
    axes.set_axis_off()


def _tree(figure: matplotlib.figure.Figure, gallery: Gallery) -> None:
    axes = figure.subplots()
    side = math.isqrt(len(gallery.parents))
    mean = gallery.completed.truth.double().mean(0).view(side, side)
    axes.imshow(mean.numpy(), cmap="Greys", vmin=0, vmax=1.6 * float(mean.max()), interpolation="nearest")
    strongest = max(gallery.strength)
    for pixel, (parent, strength) in enumerate(zip(gallery.parents, gallery.strength, strict=True)):
        if parent < 0:
            axes.scatter(pixel % side, pixel // side, s=130, facecolors="none", edgecolors=ORANGE, linewidths=2)
            continue
        ends = [pixel % side, parent % side], [pixel // side, parent // side]
        axes.plot(*ends, color=BLUE, linewidth=0.6 + 3.4 * strength / strongest, solid_capstyle="round")
    pixels = range(len(gallery.parents))
    axes.plot([p % side for p in pixels], [p // side for p in pixels], ".", color="#00263f", markersize=4)
    bare(axes)


# --- plots ---


def _bits_figure(records: Sequence[Record]) -> Figure:
    data = list(dict.fromkeys(fit.data for fit in of_kind(records, Fit)))
    data.sort(key=str.lower)
    return Figure(
        "Bits per dimension",
        "Of the test images, lower is better: dots are the means of the seeds, diamonds what another program gave.",
        lambda figure: _bits(figure, records, data),
        (8.0, 2.6 if len(data) == 1 else 4.4),
    )


def _bits(figure: matplotlib.figure.Figure, records: Sequence[Record], data: Sequence[str]) -> None:
    fits = of_kind(records, Fit)
    groups = [[fit for fit in fits if fit.data == name] for name in data]
    heights = [len({fit.model for fit in group}) + 1 for group in groups]
    panels = figure.subplots(len(data), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, name, group in zip(panels, data, groups, strict=True):
        means = {model: fmean(f.test for f in group if f.model == model) for model in {f.model for f in group}}
        order = sorted(means, key=means.__getitem__, reverse=True)
        for place, model in enumerate(order):
            color = COLORS.get(model, GRAY)
            axes.plot(means[model], place, "o", color=color, markersize=7)
            if (name, model) in EXPECTED_DOTS:
                axes.plot(EXPECTED_DOTS[name, model], place, "D", color=ORANGE, fillstyle="none", markersize=6)
            right = max(means[model], EXPECTED_DOTS.get((name, model), 0.0))
            axes.annotate(f"{means[model]:.3f}", (right, place), (8, 0), textcoords="offset points", va="center")
        low, high = min(means.values()), max(means.values())
        axes.set(yticks=range(len(order)), yticklabels=order, ylim=(-0.6, len(order) - 0.4), title=name)
        axes.set_xlim(low - 0.2 * (high - low) - 0.02, high + 0.14 * (high - low) + 0.02)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("bits per dimension, test")


def _curve_figure(curves: Sequence[Curve]) -> Figure:
    batches = "; right, in batches" if any(curve.batch for curve in curves) else ""
    return Figure(
        "EM against Adam",
        f"Bits per dimension of the test digits after each pass over the training digits, {SMALL}. Left, a step a"
        f" pass{batches}. Adam maximizes the same penalized likelihood, at several rates. EM in batches shortens its"
        " steps towards the end of the passes it is given.",
        lambda figure: _curves(figure, curves),
        (8.0, 3.4),
    )


def _curves(figure: matplotlib.figure.Figure, curves: Sequence[Curve]) -> None:
    kinds = list(dict.fromkeys(curve.batch for curve in sorted(curves, key=lambda c: c.batch or 0)))
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, batch in zip(panels, kinds, strict=True):
        mine = [curve for curve in curves if curve.batch == batch]
        rates = sorted({curve.rate for curve in mine if curve.rate is not None})
        for curve in mine:
            passes = range(1, len(curve.bits) + 1)
            if curve.rate is None:
                longest = len(curve.bits) == max(len(c.bits) for c in mine if c.rate is None)
                label = "EM" if longest else f"EM in {len(curve.bits)} passes"
                color = BLUE if longest else GREEN
                axes.plot(passes, curve.bits, color=color, linewidth=2, label=label, zorder=3)
                axes.plot(len(curve.bits), curve.bits[-1], "o", color=color, markersize=5, zorder=3)
                continue
            shade = (rates.index(curve.rate) + 1) / len(rates)
            axes.plot(passes, curve.bits, color=ORANGE, alpha=0.25 + 0.65 * shade, linewidth=1.3,
                      label=f"Adam, rate {curve.rate:g}")  # fmt: skip
        ends = [curve.bits[-1] for curve in curves]
        low = min(min(curve.bits) for curve in curves)
        axes.set(xlabel="passes over the training digits", ylim=(low - 0.02, max(2.45, max(ends) + 0.05)))
        axes.set_title("all images a step" if batch is None else f"{batch} images a step")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("bits per dimension, test")
