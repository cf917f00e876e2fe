"""Random numbers that several priors draw, each decided by a generator."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.random import standard_gamma

Generator = torch.Generator | None


def gamma(
    shape: tuple[float, float], size: int | tuple[int, ...], generator: Generator, device: torch.device
) -> Tensor:
    """Gamma draws in float64 of a shape and a SCALE."""
    size = (size,) if isinstance(size, int) else size
    return shape[1] * standard_gamma(torch.full(size, shape[0], dtype=torch.float64, device=device), generator)


def beta(a: float, b: float, size: int, generator: Generator, device: torch.device) -> Tensor:
    """Beta draws (size,) in float64."""
    one, other = (gamma((value, 1.0), size, generator, device) for value in (a, b))
    return one / (one + other)


def student(size: tuple[int, ...], dof: float, generator: Generator, device: torch.device) -> Tensor:
    """Draws of Student's t in float64: a normal over the root of a gamma."""
    normal = torch.randn(size, generator=generator, dtype=torch.float64, device=device)
    return normal * (gamma((dof / 2, 2 / dof), size, generator, device)).rsqrt()


def t_noise(y: Tensor, scale: float, generator: Generator) -> Tensor:
    """y plus scale * U(0, 1) * StudentT(2.1), a share of its own for every value."""
    if scale == 0:
        return y
    share = torch.rand(y.shape, generator=generator, dtype=torch.float64, device=y.device)
    return y + (scale * share * student(tuple(y.shape), 2.1, generator, y.device)).to(y)


def random_order(lengths: Tensor, most: int, generator: Generator) -> Tensor:
    """Random orders of rows (B,) of different lengths: indices (B, most), in which a row's own places come first."""
    keys = torch.rand(len(lengths), most, generator=generator, dtype=torch.float64, device=lengths.device)
    beyond = torch.arange(most, device=lengths.device) >= lengths[:, None]
    return keys.masked_fill(beyond, 2.0).argsort(dim=1, stable=True)


def take_points(values: Tensor, index: Tensor) -> Tensor:
    """Points (B, n, C) of values (B, N, C) at an index (B, n)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def standardize(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the points (dimension 1) of each data set. One point becomes 0."""
    centered = values - values.mean(1, keepdim=True)
    points = values.shape[1]
    spread = centered.square().sum(1, keepdim=True) / max(points - 1, 1)
    return centered / (spread.sqrt() + 1e-6)
