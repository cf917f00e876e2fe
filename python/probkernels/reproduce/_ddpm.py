"""A small conditional diffusion model of points in the plane: eight old classes to pre-train on, and a new one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS_OF_NOISE = 200
OLD_CLASSES = 8
NEW_CLASS = 8
WIDTH = 256
BATCH = 256

Batch = tuple[Tensor, Tensor]  # points (B, 2), classes (B)
Draw = Callable[[int, torch.Generator], Batch]

BETAS = torch.linspace(1e-4, 0.05, STEPS_OF_NOISE, dtype=torch.float64)
KEPT = (1 - BETAS).cumprod(0)  # share of the signal's variance that is left at each step, "alpha bar"


def draw_old(size: int, generator: torch.Generator) -> Batch:
    """Eight Gaussians of standard deviation 0.1 whose centres lie on a circle of radius 2."""
    classes = torch.randint(OLD_CLASSES, (size,), generator=generator)
    angles = classes * (2 * math.pi / OLD_CLASSES)
    centres = 2 * torch.stack([angles.cos(), angles.sin()], -1)
    return centres + 0.1 * torch.randn(size, 2, generator=generator), classes


def draw_new(size: int, generator: torch.Generator) -> Batch:
    """Two half-moons that grip each other, both of the one new class."""
    u = math.pi * torch.rand(size, generator=generator)
    moon = torch.randint(2, (size,), generator=generator)
    x = u.cos() * (1 - 2 * moon) + moon - 0.5
    y = u.sin() * (1 - 2 * moon) + 0.25 * (2 * moon - 1)
    points = 1.5 * torch.stack([x, y], -1) + 0.05 * torch.randn(size, 2, generator=generator)
    return points, torch.full((size,), NEW_CLASS)


class Denoiser(nn.Module):
    """Says which noise is in a point, given how much there is and the point's class: 149,538 parameters."""

    frequencies: Tensor

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.classes = nn.Embedding(OLD_CLASSES + 1, 32)
        self.register_buffer("frequencies", torch.logspace(0, 3, 16))
        self.enter = nn.Linear(2 + 2 * 16 + 32, width)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """x (B, 2), t (B) int64 in [0, 200), classes (B) int64 -> noise (B, 2)."""
        phase = (t / STEPS_OF_NOISE)[:, None] * self.frequencies  # (B, 16)
        h = F.silu(self.enter(torch.cat([x, phase.sin(), phase.cos(), self.classes(classes)], -1)))  # (B, width)
        for layer in self.middle:
            h = h + F.silu(layer(h))
        return self.leave(h)


def noise_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise, at steps drawn uniformly."""
    points, classes = batch
    t = torch.randint(STEPS_OF_NOISE, classes.shape, generator=generator)
    kept = KEPT.float()[t, None]  # (B, 1)
    noise = torch.randn(points.shape, generator=generator)
    return F.mse_loss(model(kept.sqrt() * points + (1 - kept).sqrt() * noise, t, classes), noise)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    draw: Draw,
    steps: int,
    seed: int,
    after: Callable[[int, float], None],
) -> None:
    """Batches of 256, learning rate falling as a cosine; ``after(step, loss)`` follows every step."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        loss = noise_loss(model, draw(BATCH, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        after(step, loss.item())


@torch.no_grad()
def evaluate(model: nn.Module, draw: Draw, size: int = 20_000) -> float:
    """The loss on the same points, steps and noise every time."""
    generator = torch.Generator().manual_seed(12345)
    return float(noise_loss(model, draw(size, generator), generator))


@torch.no_grad()
def sample(model: nn.Module, classes: Tensor, seed: int = 0) -> Tensor:
    """Points (N, 2) of the given classes (N), by ancestral sampling."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(classes), 2, generator=generator)
    for step in reversed(range(STEPS_OF_NOISE)):
        beta, kept = float(BETAS[step]), float(KEPT[step])
        noise = model(x, torch.full_like(classes, step), classes)
        x = (x - beta / math.sqrt(1 - kept) * noise) / math.sqrt(1 - beta)
        if step:
            x = x + math.sqrt(beta) * torch.randn(x.shape, generator=generator)
    return x
