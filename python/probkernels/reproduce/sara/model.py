"""A small conditional diffusion model of points in the plane: eight old classes to pre-train on, and a new one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion import Denoiser, VPDiscrete, dsm_loss
from ...diffusion import sample as sample_denoiser
from ...training import cosine, minimize

NOISE_STEPS = 200
OLD_CLASSES = 8
NEW_CLASS = 8
WIDTH = 256
BATCH = 256

Batch = tuple[Tensor, Tensor]  # points (B, 2), classes (B)
Draw = Callable[[int, torch.Generator], Batch]
PROCESS = VPDiscrete.linear(NOISE_STEPS, 1e-4, 0.05)


def draw_old(size: int, generator: torch.Generator) -> Batch:
    """Eight Gaussians of standard deviation 0.1 whose centers lie on a circle of radius 2."""
    classes = torch.randint(OLD_CLASSES, (size,), generator=generator)
    angles = classes * (2 * math.pi / OLD_CLASSES)
    centers = 2 * torch.stack([angles.cos(), angles.sin()], -1)
    return centers + 0.1 * torch.randn(size, 2, generator=generator), classes


def draw_new(size: int, generator: torch.Generator) -> Batch:
    """Two half-moons that grip each other, both of the one new class."""
    u = math.pi * torch.rand(size, generator=generator)
    moon = torch.randint(2, (size,), generator=generator)
    x = u.cos() * (1 - 2 * moon) + moon - 0.5
    y = u.sin() * (1 - 2 * moon) + 0.25 * (2 * moon - 1)
    points = 1.5 * torch.stack([x, y], -1) + 0.05 * torch.randn(size, 2, generator=generator)
    return points, torch.full((size,), NEW_CLASS)


class Net(nn.Module):
    """Predicts the noise in a point from its time step and class: 149,538 parameters."""

    frequencies: Tensor

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.classes = nn.Embedding(OLD_CLASSES + 1, 32)
        self.register_buffer("frequencies", torch.logspace(0, 3, 16))
        self.enter = nn.Linear(2 + 2 * 16 + 32, width)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """x (B, 2), time step t (B) in [0, 200), classes (B) int64 -> noise (B, 2)."""
        phase = (t / NOISE_STEPS)[:, None] * self.frequencies  # (B, 16)
        h = F.silu(self.enter(torch.cat([x, phase.sin(), phase.cos(), self.classes(classes)], -1)))  # (B, width)
        for layer in self.middle:
            h = h + F.silu(layer(h))
        return self.leave(h)


def noise_loss(net: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise, at time steps drawn uniformly."""
    return dsm_loss(Denoiser(net, PROCESS, "eps"), *batch, generator=generator)


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    draw: Draw,
    steps: int,
    seed: int,
    after: Callable[[int, float], None],
) -> None:
    """Batches of 256 and a learning rate that falls as a cosine; calls ``after(step, loss)`` after every step."""
    generator = torch.Generator().manual_seed(seed)
    minimize(
        lambda step: noise_loss(net, draw(BATCH, generator), generator),
        optimizer,
        steps,
        lr_schedule=cosine,
        after=after,
    )


@torch.no_grad()
def evaluate(net: nn.Module, draw: Draw, size: int = 20_000) -> float:
    """The loss on the same points, steps and noise every time."""
    generator = torch.Generator().manual_seed(12345)
    return float(noise_loss(net, draw(size, generator), generator))


def sample(net: nn.Module, classes: Tensor, seed: int = 0) -> Tensor:
    """Points (N, 2) of the given classes (N), by ancestral sampling over all 200 steps."""
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(len(classes), 2, generator=generator)
    model = Denoiser(net, PROCESS, "eps")
    return sample_denoiser(model, x_T, solver="ancestral_beta", steps=NOISE_STEPS, cond=classes, generator=generator)
