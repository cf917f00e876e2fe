"""The data, and the training of a network of gated experts as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ... import nn
from ..harness import datasets
from .records import DIGITS, MNIST, NR, PARITY, RELU, SBN, SLOPE, ST, STS

RATE, BATCH, LR, LARGEST_NORM, POINTS = 0.1, 32, 0.1, 2.1, 10
NAMES = {
    NR: "noisy_rectifier", RELU: "rectifier", STS: "stochastic_times_smooth", ST: "straight_through",
    SLOPE: "straight_through_sigmoid", SBN: "reinforce",
}  # fmt: skip
WEIGHTS = {  # of the penalty; others are the default of GatedExperts
    (PARITY, ST): 0.01, (PARITY, SLOPE): 0.01, (PARITY, SBN): 0.1, (MNIST, STS): 0.001,
}  # fmt: skip
SIZES = {DIGITS: (40, 200, 10), PARITY: (40, 200, 2), MNIST: (400, 2000, 10)}  # gater, experts, classes


@dataclass(frozen=True)
class Data:
    """Inputs and labels, to train on and held out."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(task: str, folder: Path | None) -> Data:
    """The data of a task. The labels of MNIST's test images are not in the file, so 10,000 others are held out."""
    if task == MNIST:
        assert folder is not None
        images = datasets.mnist(folder)
        x, y = images.train.float() / 255, images.labels
        return Data((x[:-10_000], y[:-10_000]), (x[-10_000:], y[-10_000:]))
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digit = load_digits(return_X_y=True)
    parts = train_test_split(pixels, digit, test_size=0.25, stratify=digit, random_state=0)
    x, x_test = (torch.tensor(part, dtype=torch.float32) / 16 for part in parts[:2])
    y, y_test = (torch.tensor(part, dtype=torch.int64) % SIZES[task][2] for part in parts[2:])
    return Data((x, y), (x_test, y_test))


def linear_accuracy(data: Data) -> float:
    """Held-out accuracy of logistic regression."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (x_test, y_test) = data.train, data.test
    fitted = LogisticRegression(max_iter=5000).fit(x.numpy(), y.numpy())
    return float(fitted.score(x_test.numpy(), y_test.numpy()))


def made(task: str, unit: str, inputs: int) -> tuple[nn.GatedExperts, torch.optim.Optimizer]:
    """A network and its optimizer."""
    hidden, experts, classes = SIZES[task]
    smooth = unit == STS
    layer = nn.GatedExperts(
        inputs, experts, classes, unit=NAMES[unit], gater=hidden, rate=RATE, skip=False,
        noise=nn.BetaNoise(RATE) if smooth else None, penalty_weight=WEIGHTS.get((task, unit)),
    )  # fmt: skip
    gater = list(layer.gater.parameters())
    others = [parameter for name, parameter in layer.named_parameters() if not name.startswith("gater")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": gater, "lr": LR / 100 if unit == SBN else LR}]
    return layer, torch.optim.SGD(groups, lr=LR, momentum=0.5 if smooth else 0)


@torch.no_grad()
def bound_norms(layer: nn.GatedExperts) -> None:
    """Bounds the norm of each unit's weights."""
    for name, weight in layer.named_parameters():
        if weight.ndim == 2:
            weight.copy_(torch.renorm(weight, 2, int(name == "read_weight"), LARGEST_NORM))


@torch.no_grad()
def judge(layer: nn.GatedExperts, data: Data, unit: str) -> tuple[float, float]:
    """Accuracy on held-out images and the share of gates that are on. Sigmoid gates get the threshold at which a tenth
    is on for training images."""
    if unit not in (NR, RELU):
        layer.fit_threshold(data.train[0][:10_000])
    layer.eval()
    layer.skip = True
    right = float((layer(data.test[0]).argmax(-1) == data.test[1]).float().mean())
    layer.train()
    layer.skip = False
    return right, layer.active_fraction


def train(
    task: str, unit: str, seed: int, data: Data, epochs: int, advance: Callable[[float], None]
) -> tuple[float, float, float, list[float]]:
    """Trains a network; returns its accuracy, active share, training loss and curve of accuracies."""
    torch.manual_seed(seed)
    x, y = data.train
    layer, optimizer = made(task, unit, x.shape[1])
    curve = []
    for epoch in range(epochs):
        losses = []
        whole = torch.randperm(len(x))[: len(x) // BATCH * BATCH]  # a step on the 3 images left would throw it back
        for rows in whole.split(BATCH):
            loss = cross_entropy(layer(x[rows]), y[rows], reduction="none")
            optimizer.zero_grad()
            (loss.mean() + layer.penalty() + layer.surrogate(loss)).backward()
            optimizer.step()
            bound_norms(layer)
            losses.append(loss.detach().mean())
        advance(1)
        if (epoch + 1) * POINTS // epochs > epoch * POINTS // epochs:
            accuracy, active = judge(layer, data, unit)
            curve.append(accuracy)
    return accuracy, active, float(torch.stack(losses).mean()), curve
