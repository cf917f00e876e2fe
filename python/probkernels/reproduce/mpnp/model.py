"""Tasks: constants, whose exact densities are known, and functions of Gaussian processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, StudentT, Uniform

from ...kernel_methods import RBF as RBFKernel
from ...kernel_methods import GPSampler
from .records import HEAVY, MATERN, PERIODIC, RBF

NOISE = 0.02
SCALES: dict[str, Distribution] = {"lengthscale": Uniform(0.1, 0.6), "scale": Uniform(0.1, 1.0)}


class Constants:
    """theta ~ N(0, 1) and y = theta + 0.3 noise: x says nothing."""

    stddev = 0.3

    def sample(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Tasks of n points."""
        x = 4 * torch.rand(batch, n, 1, generator=generator) - 2
        theta = torch.randn(batch, 1, generator=generator)
        return x, theta + self.stddev * torch.randn(batch, n, generator=generator)


class Functions:
    """Functions on [-2, 2] of a Gaussian process with hyperparameters of their own, and noise."""

    def __init__(self, name: str) -> None:
        priors = {**SCALES, "period": Uniform(0.1, 0.5)} if name == PERIODIC else SCALES
        self.sampler, self.heavy = GPSampler(KERNELS[name], priors), name == HEAVY

    def sample(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Tasks of n points."""
        x = 4 * torch.rand(batch, n, 1, generator=generator) - 2
        y = self.sampler(x, batch, generator) + NOISE * torch.randn(batch, n, generator=generator)
        if self.heavy:
            size = 0.15 * torch.rand(batch, 1, generator=generator)
            y = y + size * _student(batch, n, generator)
        return x, y


def _student(batch: int, n: int, generator: torch.Generator | None) -> Tensor:
    """Draws of Student's t with 2.1 degrees of freedom. Distributions know no generator: they get a seed of it."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return StudentT(2.1).sample((batch, n))


def rbf(lengthscale: Tensor, scale: Tensor) -> RBFKernel:
    """scale^2 exp(-d^2 / (2 lengthscale^2))."""
    return RBFKernel(lengthscale, float(scale) ** 2)


def matern(lengthscale: Tensor, scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The Matern kernel of smoothness 5/2."""

    def kernel(x: Tensor, z: Tensor) -> Tensor:
        r = math.sqrt(5) * (x - z.mT).abs() / lengthscale
        return scale.square() * (1 + r + r.square() / 3) * (-r).exp()

    return kernel


def periodic(lengthscale: Tensor, scale: Tensor, period: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """scale^2 exp(-2 sin^2(pi d / period) / lengthscale^2)."""

    def kernel(x: Tensor, z: Tensor) -> Tensor:
        return scale.square() * (-2 * ((math.pi * (x - z.mT) / period).sin() / lengthscale).square()).exp()

    return kernel


KERNELS: dict[str, Callable[..., object]] = {RBF: rbf, MATERN: matern, PERIODIC: periodic, HEAVY: rbf}
