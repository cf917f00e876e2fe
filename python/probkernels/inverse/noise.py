"""Noise of measurements: log-likelihood, variance and random draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks


class GaussianNoise:
    """y = A x + std z. Of complex y, real and imaginary part each have this standard deviation.

    Args:
        std: the standard deviation, above 0. For exact measurements give no noise: ``noise=None``.

    Raises:
        TypeError, ValueError: ``std`` is not a positive number.

    Example:
        >>> import torch
        >>> from probkernels.inverse import GaussianNoise
        >>> noise = GaussianNoise(0.5)
        >>> round(float(noise.log_prob(torch.ones(1, 1), torch.ones(1, 1))), 4)
        -0.2258
    """

    def __init__(self, std: float) -> None:
        checks.positive("GaussianNoise", "std", std, "for measurements without noise, give no noise: None")
        self.std = float(std)

    def log_prob(self, y: Tensor, mean: Tensor) -> Tensor:
        """log p(y | A x) of each row, (B,), for ``mean`` = A x (B, *M)."""
        z = _parts(y - mean) / self.std
        return -0.5 * z.square().sum(1) - z.shape[1] * (math.log(self.std) + 0.5 * math.log(2 * math.pi))

    def variance(self, y: Tensor) -> float | Tensor:
        """The variance of y: a number, or of y's shape (B, *M)."""
        return self.std**2

    def sample(self, mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """y (B, *M) for ``mean`` = A x (B, *M)."""
        z = torch.randn(_parts(mean).shape, generator=generator, dtype=_parts(mean).dtype, device=mean.device)
        z = torch.view_as_complex(z.view(*mean.shape, 2)) if mean.is_complex() else z.view(mean.shape)
        return mean + self.std * z


class PoissonNoise:
    """y = k / scale with counts k ~ Poisson(scale A x): low doses of light or X-rays. A x must not be negative.

    Args:
        scale: counts per unit of A x, above 0. The more counts, the less noise.

    Raises:
        TypeError, ValueError: ``scale`` is not a positive number.

    Example:
        >>> import torch
        >>> from probkernels.inverse import PoissonNoise
        >>> noise = PoissonNoise(10.0)
        >>> round(float(noise.log_prob(torch.ones(1, 1), torch.ones(1, 1)).exp()), 4)
        0.1251
    """

    def __init__(self, scale: float) -> None:
        checks.positive("PoissonNoise", "scale", scale)
        self.scale = float(scale)

    def log_prob(self, y: Tensor, mean: Tensor) -> Tensor:
        """log P(y | A x) of each row, (B,), for ``mean`` = A x (B, *M); a mean below 0 counts as one of nearly 0."""
        rate = (self.scale * mean).clamp_min(1e-6)
        return _parts(torch.xlogy(self.scale * y, rate) - rate - torch.lgamma(self.scale * y + 1)).sum(1)

    def variance(self, y: Tensor) -> float | Tensor:
        """An estimate of the variance of y (B, *M): y / scale, at least that of one count."""
        return y.clamp_min(1 / self.scale) / self.scale

    def sample(self, mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """y (B, *M) for ``mean`` = A x (B, *M)."""
        return torch.poisson((self.scale * mean).clamp_min(0), generator=generator) / self.scale


Noise = GaussianNoise | PoissonNoise


def _parts(y: Tensor) -> Tensor:
    """y (B, *M) as real numbers (B, K)."""
    return (torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).reshape(len(y), -1)
