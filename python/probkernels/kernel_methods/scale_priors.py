"""Priors on the variance sigma^2 of a network's last layer: inverse gamma, Burr XII, a fixed value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._core import checks


class InverseGamma(nn.Module):
    """The inverse gamma distribution of sigma^2: density b^a / Gamma(a) x^(-a-1) exp(-b/x), with trainable a and b.

    Args:
        a: shape, a positive number. The mean b / (a - 1) is finite for a > 1.
        b: scale, a positive number.

    Attributes:
        log_a, log_b: the parameters, float64.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import InverseGamma
        >>> InverseGamma(2.0, 1.5).log_prob(torch.tensor(0.5)).exp().detach()
        tensor(0.8962, dtype=torch.float64)
    """

    def __init__(self, a: float = 2.0, b: float = 2.0) -> None:
        super().__init__()
        self.log_a, self.log_b = _log_parameter("InverseGamma", "a", a), _log_parameter("InverseGamma", "b", b)

    @property
    def a(self) -> Tensor:
        """()."""
        return self.log_a.double().exp()

    @property
    def b(self) -> Tensor:
        """()."""
        return self.log_b.double().exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density at x > 0, of any shape."""
        return self.a * self.log_b - torch.lgamma(self.a) - (self.a + 1) * x.log() - self.b / x

    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Draws of the given shape, float64, from torch's global generator."""
        return _gamma_draws(self.a, shape).reciprocal() * self.b.detach()


class Burr12(nn.Module):
    """The Burr XII distribution of sigma^2: density c d x^(c-1) (1 + x^c)^(-d-1), with trainable c and d.

    Args:
        c: positive number. The mean is finite for c d > 1.
        d: positive number.

    Attributes:
        log_c, log_d: the parameters, float64.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import Burr12
        >>> Burr12(2.0, 1.0).log_prob(torch.tensor(1.0)).exp().detach()
        tensor(0.5000, dtype=torch.float64)
    """

    def __init__(self, c: float = 2.0, d: float = 1.0) -> None:
        super().__init__()
        self.log_c, self.log_d = _log_parameter("Burr12", "c", c), _log_parameter("Burr12", "d", d)

    @property
    def c(self) -> Tensor:
        """()."""
        return self.log_c.double().exp()

    @property
    def d(self) -> Tensor:
        """()."""
        return self.log_d.double().exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density at x > 0, of any shape. x^c may be larger than any float."""
        log_x = x.log()
        log_1p = nn.functional.softplus(self.c * log_x)
        return self.log_c + self.log_d + (self.c - 1) * log_x - (self.d + 1) * log_1p

    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Draws of the given shape, float64, from torch's global generator."""
        survival = 1 - torch.rand(shape, dtype=torch.float64, device=self.log_c.device)  # in (0, 1]
        tiny = torch.finfo(torch.float64).tiny
        return torch.expm1(-survival.log() / self.d.detach()).clamp(min=tiny) ** (1 / self.c.detach())


class FixedScale(nn.Module):
    """A known sigma^2: the mixture is then the Gaussian process of the network itself.

    Args:
        value: sigma^2, a positive number, trainable.

    Example:
        >>> from probkernels.kernel_methods import FixedScale
        >>> FixedScale(2.0).value.detach()
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.log_value = _log_parameter("FixedScale", "value", value)

    @property
    def value(self) -> Tensor:
        """()."""
        return self.log_value.double().exp()

    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        """The value, in the given shape."""
        return self.value.detach().expand(shape).clone()


def _gamma_draws(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Gamma(a, 1) draws, at least the smallest normal number: a reciprocal of zero would be infinite."""
    draws = torch.distributions.Gamma(a.detach(), torch.ones_like(a)).sample(shape)
    return draws.clamp(min=torch.finfo(draws.dtype).tiny)


def _log_parameter(op: str, name: str, value: float) -> nn.Parameter:
    found = checks.number(op, name, value)
    checks.positive(op, name, found)
    return nn.Parameter(torch.tensor(math.log(found), dtype=torch.float64))
