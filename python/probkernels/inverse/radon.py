"""``Radon``: line integrals of images, for computed tomography."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._base import Operator


class Radon(Operator):
    """Parallel-beam projections: x (B, ..., N, N) gives y (B, ..., V, M) for V angles and M bins of the detector.

    Each pixel adds its value to the two bins next to where it is projected, in proportion to their distance. Pixels
    and bins have width 1. The adjoint is the exact transpose.

    Args:
        size: N.
        angles: (V,) float, in radians. At 0 the detector lies along the rows: a bin sums a column.
        bins: M; by default the least odd or even number, as N is, that covers the diagonal.

    Raises:
        TypeError, ValueError: ``angles`` are no finite numbers, or x or y has another shape.

    Example:
        >>> import torch
        >>> from probkernels.inverse import Radon
        >>> scan = Radon(4, torch.tensor([0.0, torch.pi / 2]), bins=4)
        >>> scan(torch.arange(16.0).view(1, 4, 4)).round()
        tensor([[[24., 28., 32., 36.],
                 [ 6., 22., 38., 54.]]])
    """

    angles: Tensor

    def __init__(self, size: int, angles: Tensor, bins: int | None = None) -> None:
        super().__init__()
        self.size = checks.integer("Radon", "size", size)
        checks.float_tensor("Radon", "angles", angles)
        if angles.ndim != 1 or not len(angles):
            raise ValueError(message("Radon", "angles", "shape (V,), at least one", f"shape {tuple(angles.shape)}"))
        checks.finite("Radon", "angles", angles)
        self.register_buffer("angles", angles)
        covering = math.ceil(size * math.sqrt(2)) + 1
        self.bins = checks.integer("Radon", "bins", bins or covering + (covering - size) % 2)

    def _apply(self, fn: Any, recurse: bool = True) -> Radon:
        """Moves the module; angles keep their dtype, for in half precision they would be others."""
        angles = self.angles
        super()._apply(fn, recurse)
        self.angles = angles.to(self.angles.device)
        return self

    def _places(self, view: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every pixel (N N,): the bin below it, shifted by one for a margin, and the weights of it and the next."""
        angle = self.angles[view].double()
        at = torch.arange(self.size, dtype=torch.float64, device=like.device) - (self.size - 1) / 2
        place = at * angle.cos() + at[:, None] * angle.sin() + (self.bins - 1) / 2  # (rows, columns)
        place = place.flatten().clamp(-1, self.bins)
        below = place.floor()
        share = (place - below).to(like.real.dtype if like.is_complex() else like.dtype)
        return below.long() + 1, 1 - share, share

    def _forth(self, x: Tensor) -> Tensor:
        self._refuse_shape("x", x, (self.size, self.size))
        pixels, views = x.flatten(-2), []
        for view in range(len(self.angles)):
            low, first, second = self._places(view, x)
            margin = x.new_zeros(*x.shape[:-2], self.bins + 3)
            margin = margin.index_add(-1, low, pixels * first).index_add(-1, low + 1, pixels * second)
            views.append(margin[..., 1 : self.bins + 1])
        return torch.stack(views, -2)

    def _back(self, y: Tensor) -> Tensor:
        self._refuse_shape("y", y, (len(self.angles), self.bins))
        margin = torch.nn.functional.pad(y, (1, 2))
        x = y.new_zeros(*y.shape[:-2], self.size**2)
        for view in range(len(self.angles)):
            low, first, second = self._places(view, y)
            x = x + margin[..., view, :][..., low] * first + margin[..., view, :][..., low + 1] * second
        return x.unflatten(-1, (self.size, self.size))

    def fbp(self, y: Tensor) -> Tensor:
        """Filtered back-projection (B, ..., N, N) of y (B, ..., V, M): the classical reconstruction.

        It assumes angles that are evenly spaced over half a turn, and is no pseudo-inverse.
        """
        self._refuse_shape("y", self._checked("y", y), (len(self.angles), self.bins))
        length = 2 * self.bins  # no wrapping around
        n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64, device=y.device)
        # the ramp, sampled in space: its mean is right (Kak and Slaney, 1988, eq. 61)
        odd = n.long() % 2 == 1
        ramp = torch.where(odd, -1 / (math.pi * torch.where(odd, n, 1.0)).square(), 0.0)
        ramp[0] = 0.25
        response = torch.fft.fft(ramp).real.to(y.dtype)
        filtered = torch.fft.ifft(torch.fft.fft(y, length) * response)[..., : self.bins]
        return self._back(filtered if y.is_complex() else filtered.real) * (math.pi / len(self.angles))
