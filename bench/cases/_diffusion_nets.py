"""The networks of the gradient benchmark: the sheet's MLP for 8 x 8 digits, and a small UNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FREQUENCIES = 32
CONDITION = 32


def _phases(t: Tensor) -> Tensor:
    """Sines and cosines (B, 64) of times (B,)."""
    angles = t[:, None] * torch.logspace(0, 3, FREQUENCIES, dtype=t.dtype, device=t.device)
    return torch.cat([angles.sin(), angles.cos()], 1)


class MLP(nn.Module):
    """64 -> 192 -> 192 -> 192 -> 64 with residual layers, given a condition (B, 32)."""

    shape = (64,)

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.enter = nn.Linear(64 + CONDITION + 2 * FREQUENCIES, width)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.leave = nn.Linear(width, 64)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        h = nn.functional.silu(self.enter(torch.cat([x, cond, _phases(t)], 1)))
        for layer in self.middle:
            h = h + nn.functional.silu(layer(h))
        return self.leave(h)


class _Block(nn.Module):
    """Two convolutions with group norms, time and condition added in between, and a shortcut."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inward), nn.Conv2d(inward, outward, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outward), nn.Conv2d(outward, outward, 3, padding=1)
        self.embed = nn.Linear(2 * FREQUENCIES + CONDITION, outward)
        self.short = nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x))) + self.embed(context)[:, :, None, None]
        return self.conv2(nn.functional.silu(self.norm2(h))) + self.short(x)


class UNet(nn.Module):
    """Three resolutions of images (B, 3, 16, 16), given a condition (B, 32)."""

    shape = (3, 16, 16)

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList([_Block(width, width), _Block(width, 2 * width)])
        self.middle = _Block(2 * width, 2 * width)
        self.up = nn.ModuleList([_Block(4 * width, width), _Block(2 * width, width)])
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        context = torch.cat([_phases(t), cond], 1)
        h, kept = self.enter(x), []
        for block in self.down:
            h = block(h, context)
            kept.append(h)
            h = nn.functional.avg_pool2d(h, 2)
        h = self.middle(h, context)
        for block in self.up:
            h = nn.functional.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, kept.pop()], 1), context)
        return self.leave(h)


NETS = {"mlp": MLP, "unet": UNet}
