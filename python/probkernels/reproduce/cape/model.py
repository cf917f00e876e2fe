"""The data: digits, their ages and outcomes. The network and its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..harness import datasets

TRAIN, VALIDATION = 1000, 300  # of 1,797; the others are the test set

CHANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda age: age / 100,
    "skewed": lambda age: age / 250,
    "centered": lambda age: age / 300 + 0.35,
    "discrete": lambda age: 0.1 + 0.2 * torch.stack([(age > step).double() for step in (20, 40, 60, 80)]).sum(0),
    "sigmoid": lambda age: (25 * (age / 100 - 0.29)).sigmoid(),
}


@dataclass(frozen=True)
class Data:
    """Inputs and outcomes to train on, others to choose by, and inputs with true probabilities to judge by."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    truth: Tensor


def draw(scenario: str, seed: int) -> Data:
    """Draws ages and outcomes once, and splits the digits. An image shows its class, so the truth is a mean of ages."""
    images, chance = datasets.digits(), CHANCES[scenario]
    assert images.test_labels is not None
    x = torch.cat([images.train, images.test]).float() / 16
    digit = torch.cat([images.labels, images.test_labels])
    generator = torch.Generator().manual_seed(seed)
    age = (10 * digit + torch.randint(10, digit.shape, generator=generator)).double()
    y = torch.rand(len(digit), generator=generator, dtype=torch.float64) < chance(age)
    truth = chance(torch.arange(100).double()).view(10, 10).mean(1)[digit]
    parts = torch.randperm(len(digit), generator=generator).tensor_split([TRAIN, TRAIN + VALIDATION])
    train, validation, test = ((x[rows], y[rows]) for rows in parts)
    return Data(train, validation, test, truth[parts[2]])


def net(seed: int) -> nn.Module:
    """A network with two logits."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of the paper."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
