"""Spacings of diffusers' schedulers by noise level, and what their networks are given as time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chain import VPDiscrete
from .process import Process, Time, check_sigmas, double

BY_NOISE = ("use_karras_sigmas", "use_exponential_sigmas")


@dataclass(frozen=True)
class VPRho(Process):
    """The variance-preserving process whose time is the noise-to-signal ratio rho itself, for ratios beyond a chain's.

    Args:
        t_min: the ratio at which sampling ends.
        t_max: the ratio at which it starts.

    Raises:
        ValueError: not 0 < t_min < t_max.

    Example:
        >>> from probkernels.diffusion._diffusers_spacing import VPRho
        >>> float(VPRho(0.002, 700.0).alpha(0.75))
        0.8
    """

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        check_sigmas("from_diffusers", self.t_min, self.t_max)

    def log_alpha(self, t: Time) -> Tensor:
        """See the base."""
        return -0.5 * torch.log1p(double(t).square())

    def alpha(self, t: Time) -> Tensor:
        """See the base."""
        return (1 + double(t).square()).rsqrt()

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return double(t) * self.alpha(t)

    def rho(self, t: Time) -> Tensor:
        """See the base."""
        return double(t)

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return double(rho)

    def drift(self, t: Time) -> Tensor:
        """See the base."""
        return -double(t) / (1 + double(t).square())

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return -2 * self.drift(t)


def spaced(high: float, low: float, n: int, exponent: float | None) -> Tensor:
    """``n`` noise-to-signal ratios from ``high`` to ``low``, even in their root of this ``exponent`` as Karras et al.
    space them, or in their logarithm without one."""
    ends = torch.tensor([high, low], dtype=torch.float64)
    ends = ends.log() if exponent is None else ends.pow(1 / exponent)
    even = ends[0] + torch.linspace(0, 1, n, dtype=torch.float64) * (ends[1] - ends[0])
    rho = even.exp() if exponent is None else even.pow(exponent)
    rho[-1], rho[0] = low, high  # in this order: one level alone is the first
    return rho


def table_of(chain: VPDiscrete) -> Tensor:
    """The noise-to-signal ratios (N,) after the steps of a chain."""
    return chain.rho(torch.arange(1, len(chain) + 1, dtype=torch.float64, device="cpu") / len(chain))


def quarter_log_rho(process: Process, t: Tensor) -> Tensor:
    """EDM's time input. It is a function of the module, so that denoisers can be pickled."""
    return process.rho(t).log() / 4


def step_of_rho(process: Process, chain: VPDiscrete, rounds: bool, t: Tensor) -> Tensor:
    """The chain's step with the noise of time t, interpolated in the logarithm of rho, and within the chain."""
    log_table = table_of(chain).log().to(t.device)
    log_rho = process.rho(t).log()
    low = (torch.searchsorted(log_table, log_rho.detach(), right=True) - 1).clamp(0, len(chain) - 2)
    part = (log_rho - log_table[low]) / (log_table[low + 1] - log_table[low])
    step = low + part.clamp(0, 1)
    return step.round() if rounds else step
