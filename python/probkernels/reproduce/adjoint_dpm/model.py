"""The digits, the diffusion model and the classifier of the AdjointDPM experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion import VP, Denoiser, dsm_loss, fit
from ...training import minimize
from ..harness import datasets

WIDTH = 192
NO_CLASS = torch.tensor(10)
CLASSIFIER_STEPS = 200

Advance = Callable[[float], None]
State = dict[str, Tensor]


class Net(nn.Module):
    """Predicts v of images x (B, 64) at times t (B,): an MLP with two residual layers, 117,728 weights."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(11, 32)
        self.register_buffer("frequencies", torch.logspace(0, 3, 32))
        self.enter = nn.Linear(64 + 32 + 64, WIDTH)
        self.middle = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.leave = nn.Linear(WIDTH, 64)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """``cond`` is digits (B,) int64, 10 for none, or embeddings (B, 32)."""
        embedded = cond if cond.is_floating_point() else self.classes(cond)
        phase = t[:, None] * self.frequencies  # (B, 32)
        h = F.silu(self.enter(torch.cat([x, embedded, phase.sin(), phase.cos()], 1)))
        for layer in self.middle:
            h = h + F.silu(layer(h))
        return self.leave(h)


def classifier() -> nn.Module:
    """Untrained: images (B, 64) to scores (B, 10)."""
    return nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 10))


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 images (N, 64) in -1 .. 1 and their labels (N,)."""
    images = datasets.digits()
    pixels = torch.cat([images.train, images.test])
    assert images.test_labels is not None
    return pixels.float() / 8 - 1, torch.cat([images.labels, images.test_labels])


def fit_net(
    model: Denoiser,
    x: Tensor,
    cond: Tensor | None,
    steps: int,
    batch: int,
    advance: Advance,
    null: Tensor | None = NO_CLASS,
) -> Denoiser:
    """Trains a denoiser, and returns it with averaged weights."""

    def loss(model: Denoiser, x: Tensor, cond: Tensor | None, generator: torch.Generator) -> Tensor:
        advance(1)
        return dsm_loss(model, x, cond, times="stratified", generator=generator)

    settings: dict[str, Any] = {"steps": steps, "batch_size": batch, "ema": 1 - 8 / steps, "progress": False}
    return fit(model, x, cond, null=null, loss=loss, **settings).average


def train(steps: int, batch: int, advance: Advance) -> tuple[State, State, float]:
    """Trains model and classifier. Returns their weights (averaged for the model) and the training accuracy."""
    torch.manual_seed(0)
    images, labels = digits()
    model = Denoiser(Net(), VP(), pred="v")
    average = fit_net(model, images, labels, steps, batch, advance)
    judge = classifier()
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    minimize(lambda step: F.cross_entropy(judge(images), labels), optimizer, CLASSIFIER_STEPS)
    accuracy = float((judge(images).argmax(1) == labels).float().mean())
    return average.state_dict(), judge.state_dict(), accuracy


def restore(states: tuple[State, State], dtype: torch.dtype = torch.float32) -> tuple[Denoiser, nn.Module]:
    """The trained model and classifier, frozen."""
    model, judge = Denoiser(Net(), VP(), pred="v"), classifier()
    for module, state in zip((model, judge), states, strict=True):
        module.load_state_dict(state)
        module.to(dtype).requires_grad_(False)
    return model, judge
