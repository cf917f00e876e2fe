"""Distributions of the scale sigma^2, before and after data: closed form, quadrature, weighted draws.

A kernel matrix of m points gives q = y' K^-1 y and log det K. All that data say about sigma^2 is in q and m: the
likelihood is proportional to x^(-m/2) exp(-q / (2 x)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, StudentT

from .._core import checks
from .._core.errors import message
from .scale_priors import FixedScale, InverseGamma

WIDEST = 200.0  # the quadrature looks for sigma^2 between exp(-200) and exp(200)
NEGLIGIBLE = 80.0  # nodes whose log density lies this far below the largest are left out: exp(-80) = 2e-35
PROPER = 30.0  # how far the log density must have fallen where the search ends
FULL = 0.9  # of the nodes, at least, that must count
ZOOMS = 12  # more than any density with one mode needs: each keeps a few cells of hundreds


class Mixing(ABC):
    """A distribution of sigma^2."""

    @abstractmethod
    def posterior(self, q: Tensor, m: int) -> Mixing:
        """The distribution given m more values with the quadratic form q."""

    @abstractmethod
    def log_marginal(self, q: Tensor, log_det: Tensor, m: int) -> Tensor:
        """The log density of m values: log of the mean of N(y; 0, sigma^2 K) over sigma^2."""

    @abstractmethod
    def predictive(self, loc: Tensor, variance: Tensor) -> Distribution:
        """The distribution of each value: N(loc, sigma^2 variance), averaged over sigma^2."""

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """(n,) draws of sigma^2."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[sigma^2]; infinite where it does not exist."""


class Conjugate(Mixing):
    """An inverse gamma distribution."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def posterior(self, q: Tensor, m: int) -> Conjugate:
        return Conjugate(self.a + m / 2, self.b + q / 2)

    def log_marginal(self, q: Tensor, log_det: Tensor, m: int) -> Tensor:
        a = self.a + m / 2
        norm = torch.lgamma(a) - torch.lgamma(self.a) - m / 2 * (2 * math.pi * self.b).log()
        return norm - log_det / 2 - a * torch.log1p(q / (2 * self.b))

    def predictive(self, loc: Tensor, variance: Tensor) -> Distribution:
        scale = _root(self.b / self.a * variance, loc.dtype)
        return StudentT((2 * self.a).to(loc), loc, scale, validate_args=False)

    def sample(self, n: int) -> Tensor:
        draws = torch.distributions.Gamma(self.a.detach(), self.b.detach()).sample((n,))
        return 1 / draws.clamp(min=torch.finfo(draws.dtype).tiny)

    def mean(self) -> Tensor:
        return torch.where(self.a > 1, self.b / (self.a - 1), math.inf)


class Fixed(Mixing):
    """A known sigma^2."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def posterior(self, q: Tensor, m: int) -> Fixed:
        return self

    def log_marginal(self, q: Tensor, log_det: Tensor, m: int) -> Tensor:
        return -(m * (2 * math.pi * self.value).log() + log_det + q / self.value) / 2

    def predictive(self, loc: Tensor, variance: Tensor) -> Distribution:
        return Normal(loc, _root(self.value * variance, loc.dtype), validate_args=False)

    def sample(self, n: int) -> Tensor:
        return self.value.detach().expand(n)

    def mean(self) -> Tensor:
        return self.value


class Nodes(Mixing):
    """Values of log sigma^2 and their log weights, which need no normalization."""

    def __init__(self, log_x: Tensor, log_weights: Tensor) -> None:
        self.log_x, self.log_weights = log_x, log_weights

    @property
    def log_total(self) -> Tensor:
        """The log of the sum of all weights."""
        return self.log_weights.logsumexp(0)

    def effective(self) -> Tensor:
        """The effective number of nodes: 1 / (sum of squared weights)."""
        return (-(2 * (self.log_weights - self.log_total)).logsumexp(0)).exp()

    def log_marginal(self, q: Tensor, log_det: Tensor, m: int) -> Tensor:
        after = self.posterior(q, m)
        assert isinstance(after, Nodes)
        return after.log_total - self.log_total - (m * math.log(2 * math.pi) + log_det) / 2

    def predictive(self, loc: Tensor, variance: Tensor) -> Distribution:
        scale = _root(self.log_x.exp() * variance[..., None], loc.dtype)
        weights = (self.log_weights - self.log_total).to(loc).expand(scale.shape)
        parts = Normal(loc[..., None].expand_as(scale), scale, validate_args=False)
        return MixtureSameFamily(Categorical(logits=weights, validate_args=False), parts, validate_args=False)

    def sample(self, n: int) -> Tensor:
        place = Categorical(logits=self.log_weights.detach()).sample((n,))
        return self.log_x[place].exp()

    def mean(self) -> Tensor:
        return (self.log_weights + self.log_x).logsumexp(0).sub(self.log_total).exp()


class LogDensity:
    """The log density of t = log sigma^2, up to a constant, from a prior and the likelihood of m values."""

    def __init__(self, op: str, prior: Any, q: Tensor | float = 0.0, m: int = 0) -> None:
        self.op, self.prior, self.q, self.m = op, prior, q, m

    def __call__(self, t: Tensor) -> Tensor:
        found = self._prior(t.exp())
        if not isinstance(found, Tensor) or found.shape != t.shape:
            wanted = f"a function that maps sigma^2 ({len(t)},) to log densities ({len(t)},)"
            raise ValueError(message(self.op, "prior", wanted, checks.describe(found)))
        return found.double() + (1 - self.m / 2) * t - self.q / 2 * (-t).exp()

    def _prior(self, x: Tensor) -> Any:
        if not isinstance(self.prior, Distribution):
            return self.prior.log_prob(x) if hasattr(self.prior, "log_prob") else self.prior(x)
        support: Any = self.prior.support
        inside = torch.as_tensor(support.check(x)).expand(x.shape)  # outside, log_prob would raise
        if not bool(inside.any()):
            return torch.full_like(x, -math.inf)
        return torch.where(inside, self.prior.log_prob(torch.where(inside, x, x[inside][0])), -math.inf)

    def after(self, q: Tensor, m: int) -> LogDensity:
        """The density given m more values with the quadratic form q."""
        return LogDensity(self.op, self.prior, self.q + q, self.m + m)


class Quadrature(Nodes):
    """A density of t = log sigma^2 on equidistant nodes that cover all of it: the trapezoidal rule.

    Args:
        log_density: of t.
        nodes: number of nodes.
        device: of the nodes.
    """

    def __init__(self, log_density: LogDensity, nodes: int, device: torch.device) -> None:
        self.log_density, self.nodes = log_density, nodes
        t, self.step = _covering(log_density, nodes, device)
        super().__init__(t, log_density(t) + math.log(self.step))

    def posterior(self, q: Tensor, m: int) -> Quadrature:
        return Quadrature(self.log_density.after(q, m), self.nodes, self.log_x.device)

    def mean(self) -> Tensor:
        """Has a longer tail than the density, and its own nodes."""
        try:
            return (self.posterior(torch.zeros_like(self.log_x[0]), -2).log_total - self.log_total).exp()
        except ValueError:
            return torch.full_like(self.log_x[0], math.inf)

    def sample(self, n: int) -> Tensor:
        t = super().sample(n).log()
        return (t + self.step * (torch.rand_like(t) - 0.5)).exp()  # anywhere in the node's cell


class Draws(Nodes):
    """Draws from the prior, weighted by the likelihood: importance sampling."""

    def posterior(self, q: Tensor, m: int) -> Draws:
        return Draws(self.log_x, self.log_weights - m / 2 * self.log_x - q / 2 * (-self.log_x).exp())


@torch.no_grad()
def _covering(log_density: LogDensity, nodes: int, device: torch.device) -> tuple[Tensor, float]:
    """Equidistant nodes over the part of a density that is not negligible: zooms in until it fills them."""
    low, high = -WIDEST, WIDEST
    for zoom in range(ZOOMS):
        t = torch.linspace(low, high, nodes, dtype=torch.float64, device=device)
        found = log_density(t)
        top = found.max()
        kept = (found > top - NEGLIGIBLE).nonzero()[:, 0]
        if not bool(top.isfinite()):
            got = "NaN" if bool(found.isnan().any()) else f"{float(top):g} as its largest log density"
            raise ValueError(message(log_density.op, "prior", "a log density, finite somewhere", got))
        first, last = int(kept[0]), int(kept[-1])
        if zoom == 0 and bool(found[[0, -1]].max() > top - PROPER):
            got = f"one that does not vanish for sigma^2 near {'0' if found[0] > found[-1] else 'infinity'}"
            hint = "targets that are all zero, or a prior with heavy tails, leave no proper distribution of sigma^2"
            raise ValueError(message(log_density.op, "prior", "a density of sigma^2 that is proper", got, hint))
        step = (high - low) / (nodes - 1)
        if last - first + 1 >= FULL * nodes:
            break
        low, high = low + max(first - 1, 0) * step, low + min(last + 1, nodes - 1) * step
    return t, step


def mixing_of(op: str, prior: Any, nodes: int, draws: int | None, seed: int, device: torch.device) -> Mixing:
    """The distribution that a prior stands for."""
    if draws is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            log_x = prior.sample((draws,)).double().to(device).log()
        return Draws(log_x, torch.zeros_like(log_x))
    if isinstance(prior, InverseGamma):
        return Conjugate(prior.a, prior.b)
    if isinstance(prior, FixedScale):
        return Fixed(prior.value)
    return Quadrature(LogDensity(op, prior), nodes, device)


def _root(variance: Tensor, dtype: torch.dtype) -> Tensor:
    """The standard deviation in the dtype of the results, above 0 as distributions need it."""
    return variance.clamp(min=torch.finfo(torch.float64).tiny).sqrt().to(dtype).clamp(min=torch.finfo(dtype).tiny)
