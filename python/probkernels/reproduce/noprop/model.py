"""Data and networks of the experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..harness import data_files, datasets
from .records import DIGITS

CLASSES = 10
HELD_OUT = 10_000  # of MNIST's training images: mnist.npz has no labels of its test images


@dataclass(frozen=True)
class Data:
    """Inputs (N, D) and classes, to train on and to test."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def load(name: str, folder: Path | None) -> Data:
    """A data set by name, of the folder of --data unless it is "digits"."""
    if name == DIGITS:
        return _digits()
    assert folder is not None
    if name == "mnist":
        images = datasets.mnist(folder)
        x, cut = images.train.float() / 255, len(images.train) - HELD_OUT
        return Data(x[:cut], images.labels[:cut], x[cut:], images.labels[cut:])
    if name == "mnist1d":
        found = data_files.load(folder, name)
        arrays = [found[key] for key in ("x", "y", "x_test", "y_test")]
    else:
        labels = data_files.load(folder, "fashion_mnist_labels")
        parts = [data_files.load(folder, f"fashion_mnist_{part}") / np.float32(255) for part in ("train", "test")]
        arrays = [parts[0], labels["train"], parts[1], labels["test"]]
    x, y, x_test, y_test = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return Data(x.float().flatten(1), y.long(), x_test.float().flatten(1), y_test.long())


def _digits() -> Data:
    datasets.require_sklearn()
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=0)
    tensors = [torch.from_numpy(array) for array in (x, y, x_test, y_test)]
    return Data(tensors[0].float(), tensors[1].long(), tensors[2].float(), tensors[3].long())


class Block(nn.Module):
    """One block of NoProp-DT: a path of x, a residual path of z, and a common end."""

    def __init__(self, inputs: int, width: int = 64) -> None:
        super().__init__()
        w = width
        self.of_x = nn.Sequential(nn.Linear(inputs, w), nn.ReLU(), nn.Linear(w, w), nn.BatchNorm1d(w))
        self.of_z = nn.Sequential(nn.Linear(CLASSES, w), nn.BatchNorm1d(w), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Linear(w, w), nn.BatchNorm1d(w), nn.ReLU(), nn.Linear(w, w), nn.BatchNorm1d(w)
        )  # fmt: skip
        self.end = nn.Sequential(nn.Linear(2 * w, w), nn.BatchNorm1d(w), nn.ReLU(), nn.Linear(w, CLASSES))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Logits (b, K)."""
        h = self.of_z(z)
        logits: Tensor = self.end(torch.cat([self.of_x(x), h + self.residual(h)], -1))
        return logits


class TimeNet(nn.Module):
    """The network of CT and FM: paths of x, z and the time, no batch normalization."""

    rates: Tensor

    def __init__(self, inputs: int, width: int = 128, frequencies: int = 32) -> None:
        super().__init__()
        self.of_x, self.of_z, self.of_t = (
            nn.Sequential(nn.Linear(size, width), nn.ReLU()) for size in (inputs, CLASSES, 2 * frequencies)
        )
        self.end = nn.Sequential(
            nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
        )
        self.register_buffer("rates", torch.exp(-math.log(10_000) * torch.arange(frequencies) / frequencies))

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Logits (b, K)."""
        angles = 1000 * t[:, None] * self.rates
        times = torch.cat([angles.sin(), angles.cos()], 1)
        logits: Tensor = self.end(torch.cat([self.of_x(x), self.of_z(z), self.of_t(times)], 1))
        return logits


def mlp(inputs: int, width: int = 64) -> nn.Module:
    """The network that back-propagation trains."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )
