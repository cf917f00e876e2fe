"""Gaussian forward processes x_t = alpha_t x_0 + sigma_t eps, which samplers, losses and conversions share.

Every method takes times, a tensor of any shape or a number, and returns a float64 tensor of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ._ranges import refuse_outside, same_shape

Time = Tensor | float


def double(t: Time) -> Tensor:
    """``t`` in float64: coefficients are differences of close numbers, which the data's dtype would round away."""
    return t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")


def root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 in place of infinity at x = 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), x.detach().sqrt())


@overload
def spread(coefficient: Tensor, x: Tensor) -> Tensor: ...
@overload
def spread(coefficient: Tensor | float, x: Tensor) -> Tensor | float: ...
def spread(coefficient: Tensor | float, x: Tensor) -> Tensor | float:
    """Reshapes a coefficient (a number, 0-d or (B,)) so that it multiplies x (B, *S), in x's dtype.

    A 0-d coefficient stays on its device: torch passes a CPU scalar to a kernel as an argument, without a copy.
    """
    if not isinstance(coefficient, Tensor):
        return coefficient
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    return coefficient.to(device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


class Process:
    """Base of all processes.

    A subclass defines :meth:`log_alpha`, :meth:`sigma`, :meth:`t_of_rho`, :meth:`drift` and :meth:`diffusion2`.
    Sampling runs from ``t_max`` (noise) down to ``t_min`` (data). All methods return tensors on the device of ``t``, or
    on the CPU for a number: times often stay on the CPU while parameters of the process are on a GPU, so a process with
    parameters moves them, as in ``self.rate.to(t.device)``.

    Example:
        >>> from probkernels.diffusion import VE, Process
        >>> isinstance(VE(), Process)
        True
    """

    t_min: float
    t_max: float

    def log_alpha(self, t: Time) -> Tensor:
        """Logarithm of :meth:`alpha`."""
        raise NotImplementedError

    def sigma(self, t: Time) -> Tensor:
        """Standard deviation of the noise."""
        raise NotImplementedError

    def t_of_rho(self, rho: Time) -> Tensor:
        """The time at which the noise is ``rho`` times the signal."""
        raise NotImplementedError

    def drift(self, t: Time) -> Tensor:
        """f in the SDE dx = f x dt + g dw: the derivative of log alpha."""
        raise NotImplementedError

    def diffusion2(self, t: Time) -> Tensor:
        """g^2 in the SDE dx = f x dt + g dw: the derivative of sigma^2, minus 2 f sigma^2."""
        raise NotImplementedError

    def alpha(self, t: Time) -> Tensor:
        """Factor of the data."""
        return self.log_alpha(t).exp()

    def rho(self, t: Time) -> Tensor:
        """Noise-to-signal ratio sigma / alpha. The probability-flow ODE of y = x / alpha is dy / drho = eps."""
        return self.sigma(t) / self.alpha(t)

    def lam(self, t: Time) -> Tensor:
        """log(alpha / sigma), half the log of the signal-to-noise ratio alpha^2 / sigma^2."""
        return self.log_alpha(t) - self.sigma(t).log()

    def t_of_lam(self, lam: Time) -> Tensor:
        """The inverse of :meth:`lam`."""
        return self.t_of_rho((-double(lam)).exp())

    @property
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        return float(self.sigma(self.t_max).detach())

    def noised(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x_t (B, *S) for data x0 and standard normal noise (B, *S) and times t (0-d or (B,)) within 0 .. t_max."""
        t = double(t)
        if numbers_known(t):
            refuse_outside("Process", t, self.t_max)
        return self.mixed("Process", x0, t, noise)

    def mixed(self, op: str, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """:meth:`noised` for callers that have checked the times."""
        same_shape(op, noise, x0)
        return spread(self.alpha(t), x0) * x0 + spread(self.sigma(t), x0) * noise


def check_interval(op: str, process: Process) -> None:
    """Checks that 0 <= t_min < t_max."""
    if not 0 <= process.t_min < process.t_max:
        got = f"t_min {process.t_min}, t_max {process.t_max}"
        raise ValueError(message(op, "t_min", "0 <= t_min < t_max", got))


def check_sigmas(op: str, sigma_min: float, sigma_max: float) -> None:
    """Checks that 0 < sigma_min < sigma_max."""
    checks.positive(op, "sigma_min", sigma_min)
    checks.positive(op, "sigma_max", sigma_max)
    if not sigma_min < sigma_max:
        raise ValueError(message(op, "sigma_max", f"more than sigma_min ({sigma_min})", repr(sigma_max)))


class _LinearBeta(Process):
    """alpha for the linear noise rate beta(t) = beta_min + t (beta_max - beta_min)."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        checks.positive(name, "beta_min", self.beta_min)
        checks.positive(name, "beta_max", self.beta_max)
        check_interval(name, self)

    def beta(self, t: Time) -> Tensor:
        """The noise rate."""
        return self.beta_min + double(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Tensor:
        """See the base."""
        t = double(t)
        return -t.square() * ((self.beta_max - self.beta_min) / 4) - t * (self.beta_min / 2)

    def drift(self, t: Time) -> Tensor:
        """See the base."""
        return -self.beta(t) / 2

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        twice = -4 * log_alpha
        q = (self.beta_max - self.beta_min) * twice
        return twice / ((self.beta_min**2 + q).sqrt() + self.beta_min)


@dataclass(frozen=True)
class VP(_LinearBeta):
    """The variance-preserving process in continuous time: alpha^2 + sigma^2 = 1.

    Args:
        beta_min: noise rate at t = 0.
        beta_max: noise rate at t = 1.
        t_min: time at which sampling ends.
        t_max: time at which sampling starts.

    Raises:
        TypeError, ValueError: a rate is not a positive number, or 0 <= t_min < t_max does not hold.

    Reference:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021.

    Example:
        >>> from probkernels.diffusion import VP
        >>> process = VP()
        >>> round(float(process.alpha(1.0)), 12), round(float(process.t_of_rho(process.rho(0.3))), 12)
        (0.006571586495, 0.3)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def rho(self, t: Time) -> Tensor:
        """See the base."""
        return torch.expm1(-2 * self.log_alpha(t)).sqrt()

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return self.beta(t)

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return self._t_of_log_alpha(-0.5 * torch.log1p(double(rho).square()))

    def t_of_lam(self, lam: Time) -> Tensor:
        """See the base."""
        return self._t_of_log_alpha(-0.5 * F.softplus(-2 * double(lam), threshold=60.0))


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """The sub-variance-preserving process: VP's alpha, and sigma = 1 - alpha^2.

    Arguments, errors and reference are those of :class:`VP`.

    Example:
        >>> from probkernels.diffusion import SubVP
        >>> process = SubVP()
        >>> round(float(process.t_of_rho(process.rho(0.3))), 12)
        0.3
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return self.beta(t) * -torch.expm1(4 * self.log_alpha(t))

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return self._t_of_log_alpha(-torch.asinh(double(rho) / 2))


class _NoSignalDecay(Process):
    """alpha = 1."""

    def log_alpha(self, t: Time) -> Tensor:
        """See the base."""
        return torch.zeros_like(double(t))

    def drift(self, t: Time) -> Tensor:
        """See the base."""
        return torch.zeros_like(double(t))


@dataclass(frozen=True)
class VE(_NoSignalDecay):
    """The variance-exploding process: alpha = 1, and sigma grows geometrically.

    Args:
        sigma_min: standard deviation of the noise at t = 0.
        sigma_max: standard deviation of the noise at t = 1.
        t_min: time at which sampling ends.
        t_max: time at which sampling starts.

    Raises:
        TypeError, ValueError: 0 < sigma_min < sigma_max or 0 <= t_min < t_max does not hold.

    Reference:
        Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021.

    Example:
        >>> from probkernels.diffusion import VE
        >>> float(VE(0.01, 50.0).sigma(1.0)), VE().prior_std
        (50.0, 50.0)
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_sigmas("VE", self.sigma_min, self.sigma_max)
        check_interval("VE", self)

    def _log_range(self) -> Tensor:
        return double(self.sigma_max / self.sigma_min).log()

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return self.sigma_min * double(self.sigma_max / self.sigma_min).pow(double(t))

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return 2 * self._log_range() * self.sigma(t).square()

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return (double(rho) / self.sigma_min).log() / self._log_range()


@dataclass(frozen=True)
class EDM(_NoSignalDecay):
    """The process of EDM: alpha = 1 and sigma = t, so time is the noise level.

    Args:
        t_min: noise level at which sampling ends.
        t_max: noise level at which sampling starts.

    Raises:
        ValueError: 0 <= t_min < t_max does not hold.

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022.

    Example:
        >>> from probkernels.diffusion import EDM
        >>> EDM().prior_std
        80.0
    """

    t_min: float = 0.002
    t_max: float = 80.0

    def __post_init__(self) -> None:
        check_interval("EDM", self)

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return double(t)

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return 2 * double(t)

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return double(rho)


@dataclass(frozen=True)
class FlowMatching(Process):
    """The straight path from data to noise, x_t = (1 - t) x_0 + t eps.

    At t = 1 no signal is left, so only solvers of kind "x0" can start there.

    Args:
        t_min: time at which sampling ends, at least 0.
        t_max: time at which sampling starts, at most 1.

    Raises:
        ValueError: 0 <= t_min < t_max <= 1 does not hold.

    Reference:
        Lipman et al., Flow Matching for Generative Modeling, ICLR 2023.

    Example:
        >>> from probkernels.diffusion import FlowMatching
        >>> float(FlowMatching().rho(0.75))
        3.0
    """

    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_interval("FlowMatching", self)
        if self.t_max > 1:
            raise ValueError(message("FlowMatching", "t_max", "a time of at most 1", repr(self.t_max)))

    def log_alpha(self, t: Time) -> Tensor:
        """See the base."""
        return torch.log1p(-double(t))

    def alpha(self, t: Time) -> Tensor:
        """See the base."""
        return 1 - double(t)

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return double(t)

    def drift(self, t: Time) -> Tensor:
        """See the base."""
        return -1 / (1 - double(t))

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        t = double(t)
        return 2 * t / (1 - t)

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return 1 / (1 + 1 / double(rho))
