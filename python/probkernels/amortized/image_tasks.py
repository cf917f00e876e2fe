"""Images as regression: from the coordinates of a pixel to its value."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .task_priors import SubsetPrior


class PixelTasks(SubsetPrior):
    """Random pixels of random images: x holds row and column on [-1, 1], y the pixel's value minus 1/2.

    Args:
        images: (S, H, W) or (S, C, H, W) values on [0, 1], float32 or float64, H and W at least 2.
        t_noise: scale of Student-t noise: every value gets t_noise * U(0, 1) * StudentT(2.1). Papers take 0.09.
        dtype: of the draws.
        device: of the draws.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or a value lies outside [0, 1].

    Example:
        >>> import torch
        >>> from probkernels.amortized import PixelTasks, TaskSampler
        >>> pixels = PixelTasks(torch.rand(100, 8, 8))
        >>> x, y = pixels.sample(16, 24)
        >>> x.shape, y.shape, pixels.image(x, y)[0].shape
        (torch.Size([16, 24, 2]), torch.Size([16, 24, 1]), torch.Size([16, 1, 8, 8]))
    """

    def __init__(
        self,
        images: Tensor,
        t_noise: float = 0.0,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        checks.wide_float_tensor("PixelTasks", "images", images, "images / 255 makes floats of bytes")
        if images.ndim not in (3, 4) or len(images) == 0 or min(images.shape[-2:]) < 2 or 0 in images.shape:
            expected = "shape (S, H, W) or (S, C, H, W), H and W at least 2"
            raise ValueError(message("PixelTasks", "images", expected, f"shape {tuple(images.shape)}"))
        wrong = ~((images >= 0) & (images <= 1))
        if wrong.any():
            got = checks.offender(images, wrong)
            raise ValueError(message("PixelTasks", "images", "values on [0, 1]", got, "divide bytes by 255"))
        images = images[:, None] if images.ndim == 3 else images
        object.__setattr__(self, "size", tuple(images.shape[-2:]))
        axes = [torch.linspace(-1, 1, length, dtype=images.dtype, device=images.device) for length in self.size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2)
        y = images.flatten(2).mT - 0.5
        super().__init__(grid.expand(len(images), -1, -1), y, t_noise, dtype=dtype, device=device)

    size: tuple[int, int]

    def image(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Puts pixels back: images (B, C, H, W), 0 where nothing is known, and the known places, bool (B, H, W).

        Args:
            x: (B, n, 2) coordinates as ``sample`` gives them.
            y: (B, n, C) values minus 1/2.
        """
        height, width = self.size
        row, column = (((x[..., i] + 1) * (side - 1) / 2).round().long() for i, side in enumerate(self.size))
        place = row * width + column
        wrong = (row < 0) | (row >= height) | (column < 0) | (column >= width)
        if wrong.any():
            got = checks.offender(x, wrong[..., None])
            raise ValueError(message("PixelTasks.image", "x", "coordinates on [-1, 1]", got))
        flat = y.new_zeros(len(y), height * width, y.shape[-1])
        flat = flat.scatter(1, place[..., None].expand_as(y), y + 0.5)
        known = torch.zeros(len(y), height * width, dtype=torch.bool, device=y.device)
        known = known.scatter(1, place, True)
        return flat.mT.reshape(len(y), -1, height, width), known.reshape(len(y), height, width)
