"""Images of random strokes: classes for few-shot learning of handwriting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message
from ._draws import random_order
from .task_priors import TaskPrior


@dataclass(frozen=True, eq=False)
class StrokesPrior(TaskPrior):
    """Few-shot tasks of images: each class is one to three straight strokes, which its images vary.

    A class draws for each stroke a length of 5 to 20 pixels, a start in 2..25, and an angle until the end lies inside.
    Every third try draws length and start anew. An image draws a width of 1 to 4 pixels, one offset of -4..4 for all
    strokes, and a shift of -2..2 for each end. Pixels within half the width of a stroke are lit, each with a value of
    200..254, and blurred a little. These figures are for 28 x 28 images and scale with ``size``.

    Args:
        classes: number of classes, at least 2.
        shots: images of each class among the first classes * shots points, in random order; the points after them
            have random classes. None: all have.
        size: height and width of the images, at least 8.
        blur: standard deviation of the blur in pixels, 0 to 0.7.
        dtype: of x; labels are int64.
        device: of the draws.

    Returns of ``sample``: x (B, n, size²), values on [0, 1], and labels y (B, n).

    Example:
        >>> import torch
        >>> from probkernels.amortized import StrokesPrior
        >>> x, y = StrokesPrior().sample(4, 26, torch.Generator().manual_seed(0))
        >>> x.shape, y[0, :25].bincount()
        (torch.Size([4, 26, 784]), tensor([5, 5, 5, 5, 5]))
    """

    classes: int = 5
    shots: int | None = 5
    size: int = 28
    blur: float = 0.2

    def _check(self) -> None:
        checks.integer("StrokesPrior", "classes", self.classes, 2)
        if self.shots is not None:
            checks.integer("StrokesPrior", "shots", self.shots)
        checks.integer("StrokesPrior", "size", self.size, 8)
        checks.non_negative("StrokesPrior", "blur", self.blur)
        if self.blur > 0.7:
            raise ValueError(message("StrokesPrior", "blur", "a number from 0 to 0.7", repr(self.blur)))

    def draw(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What ``sample`` returns."""
        y = self._labels(batch, n, generator)
        start, end, there = self._classes(batch, generator)
        rows = torch.arange(batch, device=self.at)[:, None]
        images = self._images(start[rows, y], end[rows, y], there[rows, y], generator)
        return images.flatten(2).to(self.dtype), y

    def _labels(self, batch: int, n: int, generator: torch.Generator | None) -> Tensor:
        free = torch.randint(self.classes, (batch, n), generator=generator, device=self.at)
        if self.shots is None:
            return free
        shots = torch.arange(self.classes, device=self.at).repeat(self.shots)
        lengths = torch.full((batch,), len(shots), device=self.at)
        return torch.cat([shots[random_order(lengths, len(shots), generator)], free], 1)[:, :n]

    def _whole(self, low: float, high: float, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Whole numbers between the bounds, which are for 28 pixels, as float64."""
        first, last = (math.trunc(self.size * bound / 28) for bound in (low, high))
        found = torch.randint(first, last + 1, shape, generator=generator, device=self.at)
        return found.double()

    def _classes(self, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Starts and ends (B, K, 3, 2) of three strokes of every class, and which strokes there are (B, K, 3)."""
        shape = (batch, self.classes, 3)
        count = torch.randint(1, 4, shape[:2], generator=generator, device=self.at)
        waiting, tries = torch.ones(shape, dtype=torch.bool, device=self.at), 0
        start = torch.zeros(*shape, 2, dtype=torch.float64, device=self.at)
        end, length = start.clone(), start[..., 0].clone()
        while waiting.any():
            if tries % 3 == 0:
                length = torch.where(waiting, self._whole(5, 20, shape, generator), length)
                start = torch.where(waiting[..., None], self._whole(2, 25, (*shape, 2), generator), start)
            turn = torch.rand(shape, generator=generator, dtype=torch.float64, device=self.at)
            angle = 2 * math.pi * turn
            reached = start + length[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
            inside = ((reached >= 0) & (reached <= self.size - 1)).all(-1)
            end = torch.where((waiting & inside)[..., None], reached, end)
            waiting, tries = waiting & ~inside, tries + 1
        return start, end, torch.arange(3, device=self.at) < count[..., None]

    def _images(self, start: Tensor, end: Tensor, there: Tensor, generator: torch.Generator | None) -> Tensor:
        """Images (B, n, size, size) of strokes (B, n, 3, 2), each with its own width, offset and shifts."""
        lead = tuple(start.shape[:2])
        width = self._whole(1, 4, (*lead, 1, 1), generator).clamp(min=1)
        offset = self._whole(-4, 4, (*lead, 1, 2), generator)
        shift = self._whole(-2, 2, (*lead, 3, 2), generator)
        first, last = (start + offset).round(), (end + offset + shift).round()
        axis = torch.arange(self.size, dtype=torch.float64, device=self.at)
        pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)  # (column, row)
        lit = torch.zeros(*lead, self.size**2, dtype=torch.bool, device=self.at)
        for stroke in range(3):
            near = _distances(pixels, first[:, :, stroke], last[:, :, stroke]) <= width[..., 0] / 2
            lit |= near & there[:, :, stroke, None]
        grey = torch.randint(200, 255, lit.shape, generator=generator, device=self.at)
        return self._blurred((lit * grey / 255.0).reshape(-1, 1, self.size, self.size)).reshape(
            *lead, self.size, self.size
        )

    def _blurred(self, images: Tensor) -> Tensor:
        """A narrow Gaussian blur as three taps of its variance, along rows and columns; the border repeats."""
        side = self.blur**2 / 2
        taps = images.new_tensor([side, 1 - 2 * side, side])
        if len(images) == 0:
            return images
        for shape, pad in (((1, 1, 1, 3), (1, 1, 0, 0)), ((1, 1, 3, 1), (0, 0, 1, 1))):
            images = F.conv2d(F.pad(images, pad, mode="replicate"), taps.reshape(shape))
        return images


def _distances(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distances (B, n, P) of pixels (P, 2) from segments between points (B, n, 2)."""
    along = (end - start)[:, :, None]
    away = pixels - start[:, :, None]
    share = (away * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
    return (away - share.clamp(0, 1)[..., None] * along).norm(dim=-1)
