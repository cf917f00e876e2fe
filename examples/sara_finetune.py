"""Teach a diffusion model a new class through the weights that it does not use, and save a few kilobytes.

A small model learns eight classes of points in the plane. SaRAAdamW then trains only the 6 % smallest weights on a
ninth class, a ring. What it changed is saved as a sparse delta, which a fresh copy of the model takes at any strength:
0 is the model before, 1 the tuned one, and what lies between blends the two.

    python examples/sara_finetune.py
"""

import copy
import math
import tempfile
from itertools import chain, pairwise
from pathlib import Path

import probkernels as pk
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 100  # of noise
KEPT = (1 - torch.linspace(1e-4, 0.1, STEPS)).cumprod(0)  # share of the signal that each step leaves
RING = 8  # the new class


class Denoiser(nn.Module):
    """Points (B, 2), steps (B), classes (B) -> the noise in them (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.classes = nn.Embedding(STEPS, 32), nn.Embedding(RING + 1, 32)
        sizes = (66, 128, 128, 128)
        layers = [(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(sizes)]
        self.net = nn.Sequential(*chain(*layers), nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        return self.net(torch.cat([x, self.steps(t), self.classes(classes)], -1))


def old_data(size: int) -> tuple[Tensor, Tensor]:
    """Eight blobs on a circle of radius 2."""
    classes = torch.randint(RING, (size,))
    angles = classes * (2 * math.pi / RING)
    return 2 * torch.stack([angles.cos(), angles.sin()], -1) + 0.1 * torch.randn(size, 2), classes


def new_data(size: int) -> tuple[Tensor, Tensor]:
    """A ring of radius 1."""
    angles = 2 * math.pi * torch.rand(size)
    return torch.stack([angles.cos(), angles.sin()], -1) + 0.05 * torch.randn(size, 2), torch.full((size,), RING)


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    x, classes = data
    t = torch.randint(STEPS, classes.shape)
    noise, kept = torch.randn_like(x), KEPT[t, None]
    return F.mse_loss(model(kept.sqrt() * x + (1 - kept).sqrt() * noise, t, classes), noise)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: object, steps: int) -> None:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, data(128)).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def report(name: str, model: nn.Module) -> None:
    torch.manual_seed(9)
    old, new = loss(model, old_data(8192)).item(), loss(model, new_data(8192)).item()
    print(f"{name:18s} loss on old classes {old:.3f}   on the new one {new:.3f}")


def main() -> None:
    torch.manual_seed(0)
    base = Denoiser()
    train(base, torch.optim.AdamW(base.parameters(), lr=2e-3), old_data, 1000)
    report("pre-trained", base)

    model = copy.deepcopy(base)
    optimizer = pk.optim.SaRAAdamW(model, density=0.06, lr=3e-3)  # the one line
    train(model, optimizer, new_data, 300)
    report("fine-tuned", model)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ring.safetensors"
        optimizer.adapter.save(path)
        count, size = optimizer.adapter.count, path.stat().st_size
        whole = sum(p.nbytes for p in base.parameters())
        print(f"\nsaved {count:,} of {whole // 4:,} weights: {size / 1e3:.1f} kB instead of {whole / 1e3:.1f} kB")
        delta = pk.sparse.Delta.load(path)

    deltas = pk.sparse.Deltas(base)
    deltas.add("ring", delta)
    for alpha in (0.0, 0.5, 1.0):
        deltas.set({"ring": alpha})
        report(f"base + {alpha} x delta", base)


if __name__ == "__main__":
    main()
