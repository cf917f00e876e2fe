"""What keeps stochastic units at a target rate: penalties, an adapted weight, noise, and the test threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._noise import check_rate, draw_seed, known, normal, uniform, wide

SMALLEST = 1e-6  # rates nearer to 0 or 1 are taken there, so that their penalty and its gradient are finite
MOST_TRIES = 64  # of a sampler that accepts more than 95 %


def sparsity_kl(p: Tensor, rate: float = 0.1) -> Tensor:
    """Penalty that is least where each unit's mean probability is ``rate``: sum of -s log m - (1 - s) log(1 - m).

    m is a unit's mean over all leading dimensions: the penalty acts on the rate in the batch, not on each example. It
    is the divergence plus a constant, the entropy of ``rate`` for each unit.

    Args:
        p: (..., units) probabilities that a unit is on: sqrt(sigmoid(a)) for stochastic times smooth, sigmoid(a) for
            the others. 0 and 1 are allowed: rates are taken within 1e-6 .. 1 - 1e-6, with the gradient found there.
        rate: s in (0, 1).

    Returns:
        A scalar, float32 or float64.

    Raises:
        TypeError: ``p`` is not floating point.
        ValueError: ``p`` has no rows or entries outside [0, 1] or NaN; ``rate`` is out of range.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 6.

    Example:
        >>> import torch, probkernels as pk
        >>> round(pk.nn.sparsity_kl(torch.full((8, 1), 0.1), rate=0.1).item(), 4)
        0.3251
    """
    op = "sparsity_kl"
    checks.float_tensor(op, "p", p)
    check_rate(op, "rate", rate)
    if p.ndim == 0 or not math.prod(p.shape[:-1]):
        raise ValueError(message(op, "p", "shape (..., units) with at least one row", f"shape {tuple(p.shape)}"))
    if known(p):
        wrong = ~((p >= 0) & (p <= 1)).detach()
        if bool(wrong.any()):
            hint = "a sigmoid makes probabilities of pre-activations"
            raise ValueError(message(op, "p", "probabilities in [0, 1]", checks.offender(p.detach(), wrong), hint))
    mean = p.to(wide(p))
    mean = mean.flatten(0, -2).mean(0) if p.ndim > 1 else mean
    moved = mean + (mean.clamp(SMALLEST, 1 - SMALLEST) - mean).detach()
    return -(rate * moved.log() + (1 - rate) * torch.log1p(-moved)).sum()


class BetaNoise(NamedTuple):
    """Noise scale (Beta(alpha, beta) - 0.5) for pre-activations, with its mode at the target rate.

    alpha = (s (beta - 2) + 1) / (1 - s). Added to pre-activations of stochastic times smooth in training, it makes
    units decisive; at test it is replaced by its mean. See :func:`beta_noise`.

    Attributes:
        rate: s in (0, 1).
        beta: above 1; 40.1 was the best in the paper.
        scale: factor; None takes the paper's, at which the sigmoid of the mode is s (for s = 0.5: 1).

    Example:
        >>> import probkernels as pk
        >>> noise = pk.nn.BetaNoise(0.1)
        >>> round(noise.alpha, 4), round(noise.factor, 4), round(noise.mean, 4)
        (5.3444, 5.4931, -2.1005)
    """

    rate: float = 0.1
    beta: float = 40.1
    scale: float | None = None

    @property
    def alpha(self) -> float:
        """The first parameter, which puts the mode at the rate."""
        return (self.rate * (self.beta - 2) + 1) / (1 - self.rate)

    @property
    def factor(self) -> float:
        """``scale``, or the paper's: logit(s) / (s - 0.5)."""
        if self.scale is not None:
            return self.scale
        return math.log(self.rate / (1 - self.rate)) / (self.rate - 0.5) if self.rate != 0.5 else 1.0

    @property
    def mean(self) -> float:
        """The mean of the noise, for use at test."""
        return self.factor * (self.alpha / (self.alpha + self.beta) - 0.5)


def beta_noise(a: Tensor, noise: BetaNoise | None = None, *, generator: torch.Generator | None = None) -> Tensor:
    """Draws :class:`BetaNoise` of the shape of ``a``. Not for ``torch.compile`` in one graph: it draws by rejection.

    Args:
        a: gives shape, dtype and device.
        noise: its parameters. None: ``BetaNoise()``.
        generator: gives the seed. None: torch's own, with the rank mixed in, in a distributed run.

    Returns:
        Noise of the shape, dtype and device of ``a``, to be added to pre-activations.

    Raises:
        TypeError: ``a`` is not floating point, or ``noise`` is no BetaNoise.
        ValueError: the rate is not in (0, 1), or beta is at most 1.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 6; Marsaglia and Tsang, "A Simple Method for
    Generating Gamma Variables", 2000.

    Example:
        >>> import torch, probkernels as pk
        >>> noise = pk.nn.BetaNoise(0.1)
        >>> n = pk.nn.beta_noise(torch.zeros(10_000), noise, generator=torch.Generator().manual_seed(0))
        >>> bool((n.mean() - noise.mean).abs() < 0.01)
        True
    """
    op = "beta_noise"
    checks.float_tensor(op, "a", a)
    noise = BetaNoise() if noise is None else noise
    if not isinstance(noise, BetaNoise):
        raise TypeError(message(op, "noise", "a BetaNoise or None", checks.describe(noise)))
    check_noise(op, noise)
    seed = draw_seed(op, a.device, generator)
    first, second = _gamma(a, noise.alpha, seed, 0), _gamma(a, noise.beta, seed, 1)
    return (noise.factor * (first / (first + second) - 0.5)).to(a.dtype)


def check_noise(op: str, noise: BetaNoise) -> None:
    """Checks the parameters of a noise."""
    check_rate(op, "noise.rate", noise.rate)
    checks.positive(op, "noise.beta", noise.beta)
    if noise.beta <= 1:
        raise ValueError(message(op, "noise.beta", "a number above 1", repr(noise.beta)))
    if noise.scale is not None:
        checks.number(op, "noise.scale", noise.scale)


def _gamma(a: Tensor, shape: float, seed: Tensor, which: int) -> Tensor:
    """Gamma numbers of a ``shape`` of at least 1, of the shape of ``a``."""
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    found = torch.full(a.shape, torch.nan, dtype=wide(a), device=a.device)
    for attempt in range(MOST_TRIES):
        step = 2 * (2 * attempt + which)  # normal and uniform numbers of one step are made of the same words
        z, u = normal(a, seed, step), uniform(a, seed, step + 1)
        v = (1 + c * z) ** 3
        right = (v > 0) & (u.log() < z * z / 2 + d * (1 - v + v.clamp_min(1e-30).log()))
        found = torch.where(found.isnan() & right, d * v, found)
        if attempt and not bool(found.isnan().any()):
            break
    return found


class AdaptiveL1(torch.nn.Module):
    """L1 penalty of units whose weight follows the measured rate: up when too many are on, down when too few.

    Call it in training: it returns weight * sum of |mean h| over units, and then moves the weight by the share of h
    that is not 0.

    Args:
        rate: target share of units that are on.
        weight: at the start.
        factor: the weight is multiplied or divided by 1 + factor.
        tolerance: no change within rate +- tolerance.
        least: lower bound of the weight.
        most: upper bound of the weight.

    Shape: h (..., units) -> scalar.

    Raises:
        ValueError: a setting is out of range, or h is empty.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 6.

    Example:
        >>> import torch, probkernels as pk
        >>> penalty = pk.nn.AdaptiveL1(rate=0.1, weight=0.5, factor=0.1)
        >>> penalty(torch.ones(4, 3)).item()
        1.5
        >>> round(penalty.weight.item(), 4)
        0.55
    """

    weight: Tensor

    def __init__(
        self, rate: float = 0.1, weight: float = 1e-5, factor: float = 0.1, tolerance: float = 0.01,
        least: float = 1e-12, most: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        op = "AdaptiveL1"
        check_rate(op, "rate", rate)
        for name, value in (("weight", weight), ("factor", factor), ("least", least), ("most", most)):
            checks.positive(op, name, value)
        checks.non_negative(op, "tolerance", tolerance)
        if not least <= weight <= most:
            raise ValueError(message(op, "weight", f"a number from least={least} to most={most}", repr(weight)))
        self.rate, self.factor, self.tolerance, self.least, self.most = rate, factor, tolerance, least, most
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))

    def forward(self, h: Tensor) -> Tensor:
        """The penalty; in training, the weight then moves."""
        checks.float_tensor("AdaptiveL1", "h", h)
        if h.ndim == 0 or not h.numel():
            raise ValueError(message("AdaptiveL1", "h", "(..., units), not empty", f"shape {tuple(h.shape)}"))
        mean = h.to(wide(h)).flatten(0, -2).mean(0) if h.ndim > 1 else h.to(wide(h))
        penalty = self.weight.clone() * mean.abs().sum()
        if self.training:
            self._move((h.detach() != 0).float().mean())
        return penalty

    @torch.no_grad()
    def _move(self, share: Tensor) -> None:
        up, down = share > self.rate + self.tolerance, share < self.rate - self.tolerance
        moved = torch.where(up, self.weight * (1 + self.factor), self.weight)
        moved = torch.where(down, self.weight / (1 + self.factor), moved)
        self.weight.copy_(moved.clamp(self.least, self.most))


def threshold_at_rate(value: Tensor, rate: float = 0.1) -> Tensor:
    """The threshold t at which the share of ``value`` above t is ``rate``: for units at test.

    Args:
        value: gate values without noise, of any shape, for example sigmoid(a) of held-out data.
        rate: target share in (0, 1).

    Returns:
        A scalar: the middle between the last value that is on and the first that is off. Among equal values fewer are
        on, never more.

    Raises:
        TypeError: ``value`` is not floating point.
        ValueError: ``value`` is empty or has NaN; ``rate`` is out of range.

    Reference: Bengio, Leonard, Courville, arXiv:1308.3432, section 6.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.nn.threshold_at_rate(torch.tensor([0.1, 0.2, 0.3, 0.9]), rate=0.25).item()
        0.6000000238418579
    """
    op = "threshold_at_rate"
    checks.float_tensor(op, "value", value)
    check_rate(op, "rate", rate)
    flat = value.detach().flatten()
    if not len(flat):
        raise ValueError(message(op, "value", "at least one value", f"shape {tuple(value.shape)}"))
    if bool(flat.isnan().any()):
        raise ValueError(message(op, "value", "numbers", checks.offender(flat, flat.isnan())))
    ordered = flat.to(wide(flat)).sort(descending=True).values
    on = round(rate * len(flat))
    above, below = ordered[max(on - 1, 0)], ordered[min(on, len(flat) - 1)]
    middle = below + (above - below) / 2
    if on == 0:
        return ordered[0]
    return torch.where((middle < above) & (middle >= below), middle, below)
