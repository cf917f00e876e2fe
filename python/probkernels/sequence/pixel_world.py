"""A world of textured squares that move by less than a patch: images with the exact flow of every pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

SIDE = 2  # patches of an object's side


class PixelScenes(NamedTuple):
    """Scenes of pixels: frames (B, 3, H, W) in [0, 1]; flow (B, 2, H, W), rows and columns by which what is seen in
    frame 0 moves; owners (B, H, W) of both frames, -1 for background; and whether what is seen in frame 0 is seen in
    frame 1 (B, H, W)."""

    frame0: Tensor
    frame1: Tensor
    flow: Tensor
    owner0: Tensor
    owner1: Tensor
    visible: Tensor


class PixelWorld:
    """Squares of 2 x 2 patches with random textures that move by whole pixels over a still textured background.

    A motion is at most one patch, so it is mostly no whole number of patches. Later objects are painted over earlier
    ones. :class:`PatchQuantizer` turns the frames into codes.

    Args:
        grid: patches of a side of the image, at least 4.
        patch: pixels of a side of a patch.
        objects: number of objects.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import PixelWorld
        >>> scenes = PixelWorld(6, 4).sample(8, torch.Generator().manual_seed(0))
        >>> scenes.frame0.shape, int((scenes.owner0[0] == 0).sum())
        (torch.Size([8, 3, 24, 24]), 64)
    """

    def __init__(self, grid: int = 6, patch: int = 4, objects: int = 1) -> None:
        checks.integer("PixelWorld", "grid", grid, least=4)
        checks.integer("PixelWorld", "patch", patch)
        checks.integer("PixelWorld", "objects", objects)
        self.grid, self.patch, self.objects = grid, patch, objects

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        return f"PixelWorld({self.grid}, {self.patch}, {self.objects})"

    def sample(self, n: int, generator: torch.Generator | None = None) -> PixelScenes:
        """Draws n scenes.

        Args:
            n: number of scenes.
            generator: of all draws, on the CPU; None for torch's default generator.

        Raises:
            TypeError, ValueError: n is not positive.
        """
        checks.integer("PixelWorld", "n", n)
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(message("PixelWorld", "generator", "a generator on the CPU", str(generator.device)))
        size, side, shape = self.grid * self.patch, SIDE * self.patch, (n, self.objects, 2)
        at = torch.randint(self.patch, size - side - self.patch + 1, shape, generator=generator)
        motion = torch.randint(-self.patch, self.patch + 1, shape, generator=generator)
        background = torch.rand(n, 3, size, size, generator=generator)
        texture = torch.rand(n, self.objects, 3, side, side, generator=generator)
        frame0, owner0 = self._painted(background, texture, at)
        frame1, owner1 = self._painted(background, texture, at + motion)
        by_owner = torch.cat([motion, torch.zeros(n, 1, 2, dtype=motion.dtype)], 1)  # the last one: background
        index = owner0.flatten(1) % (self.objects + 1)
        flow = by_owner.gather(1, index[..., None].expand(-1, -1, 2)).mT.reshape(n, 2, size, size)
        row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        target = (row + flow[:, 0]) * size + column + flow[:, 1]
        visible = owner1.flatten(1).gather(1, target.flatten(1)).view_as(owner0) == owner0
        return PixelScenes(frame0, frame1, flow, owner0, owner1, visible)

    def _painted(self, background: Tensor, texture: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        frame, owner = background.clone(), torch.full_like(background[:, 0], -1, dtype=torch.long)
        side = torch.arange(texture.shape[-1])
        scene = torch.arange(len(frame))[:, None, None]
        for k in range(self.objects):
            rows = at[:, k, 0, None, None] + side[:, None]
            columns = at[:, k, 1, None, None] + side
            frame[scene, :, rows, columns] = texture[:, k].permute(0, 2, 3, 1)
            owner[scene, rows, columns] = k
        return frame, owner
