"""The variance-preserving process as a chain of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._device import on_cpu
from .process import Process, Time, check_interval, double


@dataclass(frozen=True, eq=False)
class VPDiscrete(Process):
    """The variance-preserving chain of N steps: x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) noise.

    After step i = 0 .. N-1 the time is t = (i + 1) / N. log alpha is linear between steps, so samplers for continuous
    time apply. Networks get the step i as their time input, not t. If the last beta is 1, no signal is left at the end;
    alpha, rather than log alpha, is then linear in the last step.

    Args:
        betas: (N,) numbers in (0, 1), the last one in (0, 1]; a tensor or a sequence.
        t_min: the time at which sampling ends. At 0, as in DDPM, no noise is left.

    Raises:
        ValueError: betas are out of range or not one-dimensional.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.

    Example:
        >>> from probkernels.diffusion import VPDiscrete
        >>> process = VPDiscrete.linear()
        >>> round(float(process.alpha(500 / 1000)) ** 2, 10)
        0.0785872429
    """

    betas: Tensor | Sequence[float] = field(repr=False)
    t_min: float = 0.0
    t_max: float = 1.0
    knots: Tensor = field(init=False, repr=False)  # (N + 1,): log alpha at t = 0, 1/N, .. 1

    @on_cpu
    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas).to(device="cpu", dtype=torch.float64)
        good = betas.ndim == 1 and len(betas) > 0
        if not good or not bool(((betas > 0) & (betas < 1))[:-1].all() and 0 < betas[-1] <= 1):
            expected = "one axis of numbers in (0, 1), the last in (0, 1]"
            raise ValueError(message("VPDiscrete", "betas", expected, checks.describe(self.betas)))
        check_interval("VPDiscrete", self)
        object.__setattr__(self, "betas", betas)
        ended = betas == 1  # the logarithm is infinite there, and so its slope; the last step does not use either
        change = torch.where(ended, -torch.inf, torch.log1p(-torch.where(ended, 0.0, betas)))
        object.__setattr__(self, "knots", F.pad(0.5 * change.cumsum(0), (1, 0)))

    def __len__(self) -> int:
        return len(self.betas)

    @classmethod
    @on_cpu
    def linear(cls, n: int = 1000, start: float = 1e-4, stop: float = 0.02) -> VPDiscrete:
        """Betas that grow linearly from ``start`` to ``stop``, as in DDPM."""
        return cls(torch.linspace(start, stop, n, dtype=torch.float64))

    @classmethod
    @on_cpu
    def scaled_linear(cls, n: int = 1000, start: float = 0.00085, stop: float = 0.012) -> VPDiscrete:
        """Betas whose square roots grow linearly, as in Stable Diffusion."""
        return cls(torch.linspace(start**0.5, stop**0.5, n, dtype=torch.float64).square())

    @classmethod
    @on_cpu
    def cosine(cls, n: int = 1000, offset: float = 0.008, largest: float = 0.999) -> VPDiscrete:
        """alpha^2 falls as a squared cosine (Nichol and Dhariwal, ICML 2021); betas are at most ``largest``."""
        at = torch.arange(n + 1, dtype=torch.float64) / n
        kept = ((at + offset) / (1 + offset) * (torch.pi / 2)).cos().square()  # (N + 1,)
        return cls((1 - kept[1:] / kept[:-1]).clamp_max(largest))

    @classmethod
    @on_cpu
    def sigmoid(cls, n: int = 1000, start: float = 1e-4, stop: float = 0.02) -> VPDiscrete:
        """Betas that grow from ``start`` to ``stop`` as a logistic function does from -6 to 6."""
        return cls(torch.linspace(-6, 6, n, dtype=torch.float64).sigmoid() * (stop - start) + start)

    def zero_terminal_snr(self) -> VPDiscrete:
        """This chain, rescaled so that no signal is left at its end (Lin et al., WACV 2024)."""
        alpha = self.knots[1:].exp()  # (N,)
        alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        kept = F.pad(alpha.square(), (1, 0), value=1.0)
        return VPDiscrete(1 - kept[1:] / kept[:-1], self.t_min, self.t_max)

    def index(self, t: Time) -> Tensor:
        """The step t N - 1 that networks get as their time input; may be fractional."""
        return double(t) * len(self) - 1

    def _segment(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Around each of some steps: log alpha before it, its change over the step, and whether that is finite."""
        knots = self.knots.to(place.device)
        low, high = knots[place], knots[place + 1]
        finite = high.isfinite()
        return low, torch.where(finite, high - low, -1.0), finite

    def _place(self, t: Tensor) -> Tensor:
        return (t.detach() * len(self)).floor().long().clamp(0, len(self) - 1)

    def log_alpha(self, t: Time) -> Tensor:
        """See the base."""
        t = double(t)
        place = self._place(t)
        low, change, finite = self._segment(place)
        part = t * len(self) - place
        # without noise (t = 0) and without signal the betas count for nothing, but roots and logarithms have infinite
        # slopes, and 0 must win
        change = torch.where(part == 0, change.detach(), change)
        low = torch.where(finite | (part < 1), low, low.detach())
        return low + torch.where(finite, part * change, torch.log1p(-torch.where(finite, 0.0, part)))

    def sigma(self, t: Time) -> Tensor:
        """See the base."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def rho(self, t: Time) -> Tensor:
        """See the base."""
        return torch.expm1(-2 * self.log_alpha(t)).sqrt()

    def drift(self, t: Time) -> Tensor:
        """See the base. Where two steps meet, the drift is that of the step that starts at ``t``."""
        t = double(t)
        place = self._place(t)
        _, change, finite = self._segment(place)
        part = t * len(self) - place
        return len(self) * torch.where(finite, change, -1 / (1 - torch.where(finite, 0.0, part)))

    def diffusion2(self, t: Time) -> Tensor:
        """See the base."""
        return -2 * self.drift(t)

    def t_of_rho(self, rho: Time) -> Tensor:
        """See the base."""
        return self._t_of_log_alpha(-0.5 * torch.log1p(double(rho).square()))

    def t_of_lam(self, lam: Time) -> Tensor:
        """See the base."""
        return self._t_of_log_alpha(-0.5 * F.softplus(-2 * double(lam), threshold=60.0))

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        falling = -self.knots.to(log_alpha.device)  # rising, to be searched
        place = (torch.searchsorted(falling, -log_alpha.detach(), right=True) - 1).clamp(0, len(self) - 1)
        low, change, finite = self._segment(place)
        below = log_alpha - low
        part = torch.where(finite, below / change, -torch.expm1(torch.where(finite, 0.0, below)))
        return (place + part) / len(self)
