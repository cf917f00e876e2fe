"""Small networks and data for the tests of NoProp."""

from __future__ import annotations

import torch
from probkernels.local_learning import NoPropDT
from torch import Tensor, nn

CLASSES, INPUTS = 4, 6


class Block(nn.Module):
    """block(z, x), with or without batch normalization."""

    def __init__(self, width: int = 8, dim: int = CLASSES, norm: bool = False) -> None:
        super().__init__()
        middle = [nn.BatchNorm1d(width)] if norm else []
        self.net = nn.Sequential(
            nn.Linear(dim + INPUTS, width, bias=not norm), *middle, nn.Tanh(), nn.Linear(width, CLASSES)
        )  # a bias before the normalization would get rounding errors as gradients, which Adam scales up

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([z, x], 1))
        return out


class TimeNet(nn.Module):
    """net(z, x, t)."""

    def __init__(self, width: int = 16, dim: int = CLASSES) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + INPUTS + 1, width), nn.Tanh(), nn.Linear(width, CLASSES))

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([z, x, t[:, None]], 1))
        return out


class Always(nn.Module):
    """Logits that ignore the input, for instance of a perfect denoiser."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, z: Tensor, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.logits.expand(len(z), -1)


def data(n: int = 32) -> tuple[Tensor, Tensor]:
    """Inputs that tell the class."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(CLASSES, (n,), generator=generator)
    return torch.randn(n, INPUTS, generator=generator) + 4 * torch.eye(INPUTS)[y], y


def model(steps: int = 4, seed: int = 0, norm: bool = False, **options: object) -> NoPropDT:
    """A small model of equal blocks."""
    torch.manual_seed(seed)
    return NoPropDT([Block(norm=norm) for _ in range(steps)], CLASSES, **options)  # type: ignore[arg-type]
