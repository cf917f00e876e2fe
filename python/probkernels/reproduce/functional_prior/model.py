"""The data: functions of the Gaussian process with noisy observations, and splits of Boston housing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import LogNormal

from ... import kernel_methods as km
from ..harness import data_files

NOISE = 0.1
GRID = torch.linspace(-3, 3, 64)[:, None]


def process() -> km.GPSampler:
    """The target of the toy problem."""
    return km.GPSampler(km.RBF(0.6, 1.0))


def wide_process(inputs: int) -> km.GPSampler:
    """The target for Boston: each function has lengthscales and a variance of its own."""
    scales = torch.full((inputs,), math.log(2 * inputs) / 2)
    return km.GPSampler(km.RBF, {"lengthscale": LogNormal(scales, 1.0), "variance": LogNormal(0.1, 1.0)})


@dataclass(frozen=True)
class Toy:
    """40 noisy observations with a gap, and the function on the grid."""

    x: Tensor
    y: Tensor
    truth: Tensor


def draw(seed: int, number: int) -> Toy:
    """A data set of the process."""
    generator = torch.Generator().manual_seed(1000 + 10 * seed + number)
    x = 1.2 + 1.8 * torch.rand(40, 1, generator=generator)  # the gap is 40 % of the range
    x = torch.where(torch.rand(40, 1, generator=generator) < 0.5, -x, x)
    f = process()(torch.cat([GRID, x]), 1, generator)[0]
    y = f[64:, None] + math.sqrt(NOISE) * torch.randn(40, 1, generator=generator)
    return Toy(x, y, f[:64])


@dataclass(frozen=True)
class Split:
    """Standardized inputs and prices; the scale of prices."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    scale: float


def boston(folder: Path, split: int) -> Split:
    """A standard split, standardized by its training rows."""
    arrays = data_files.load(folder, "uci_regression")
    x, y = torch.from_numpy(arrays["boston_X"]), torch.from_numpy(arrays["boston_y"])[:, None]
    test = torch.zeros(len(x), dtype=torch.bool)
    test[torch.from_numpy(arrays["boston_test"][split]).long()] = True
    mean, std, center, scale = x[~test].mean(0), x[~test].std(0), y[~test].mean(), y[~test].std()
    x, y = ((x - mean) / std).float(), ((y - center) / scale).float()
    return Split(x[~test], y[~test], x[test], y[test], float(scale))
