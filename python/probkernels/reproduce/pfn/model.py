"""The networks of the experiment: what they are trained on, and how far they are from the exact answers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from ...amortized import (
    PFN,
    BarDistribution,
    BarHead,
    BernoulliHead,
    BetaBernoulliPrior,
    GaussianHead,
    GPPrior,
    PFNHead,
    fit_prior,
)
from .records import BARS, EXPECTED_FLOORS, SHEET, SIZES, SMALL, Coins, Fitted, Floors, Modes

Advance = Callable[[float], None]
TESTED = 1000  # data sets
COIN_POINTS = 20
NETWORKS: dict[str, dict[str, Any]] = {
    SHEET: {"d": 64, "layers": 4, "heads": 4, "d_ff": 128},
    SMALL: {"d": 32, "layers": 2, "heads": 4, "d_ff": 64},
}
TRAININGS: dict[str, dict[str, Any]] = {  # "weighted" takes 0 contexts in one of 120 steps: too few for 500 steps
    SHEET: {"n_points": 30, "context_sizes": "uniform"},
    SMALL: {"n_points": 10, "context_sizes": "weighted"},
}


class TwoModes:
    """Targets of half N(-2, 0.1²) and half N(2, 0.1²), without inputs."""

    def sample(self, batch: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (B, n, 0) and y (B, n)."""
        side = 4.0 * torch.randint(2, (batch, n), generator=generator) - 2
        return torch.zeros(batch, n, 0), side + 0.1 * torch.randn(batch, n, generator=generator)


def trained(model: PFN, prior: Any, steps: int, seed: int, advance: Advance, **options: Any) -> PFN:
    """The model after its training."""
    fit_prior(model, prior, steps, seed=seed, after=lambda step, loss: advance(1), **options)
    return model


@torch.no_grad()
def coins(steps: int, seed: int, advance: Advance) -> Coins:
    """Trains on coins of unknown probability, and compares with (1 + k) / (2 + n)."""
    torch.manual_seed(seed)
    model, prior = PFN(1, BernoulliHead(), d=32, layers=1, heads=4), BetaBernoulliPrior()
    with torch.enable_grad():
        trained(model, prior, steps, seed, advance, n_points=COIN_POINTS, lr=3e-3)
    errors, curve = [], []
    for n in range(COIN_POINTS):
        y = (torch.arange(n) < torch.arange(n + 1)[:, None]).long()  # k ones in row k
        x, new = torch.zeros(n + 1, n, 1), torch.zeros(n + 1, 1, 1)
        found, exact = (law.probs[:, 0] for law in (model(x, y, new), prior.exact_predictive(x, y, new)))
        errors.append((found - exact).abs())
        curve = [exact.tolist(), found.tolist()]
    every = torch.cat(errors)
    return Coins(steps, seed, every.max().item(), every.mean().item(), curve)


def gaps(setting: str, head: str, steps: int, seed: int, advance: Advance) -> Fitted:
    """Trains on a Gaussian process, and compares with its exact posterior predictive."""
    torch.manual_seed(seed)
    prior = GPPrior(lengthscale=0.2, noise=0.01)
    of_y: PFNHead = BarHead.of_prior(prior, 100) if head == BARS else GaussianHead()
    model = trained(PFN(1, of_y, **NETWORKS[setting]), prior, steps, seed, advance, **TRAININGS[setting])
    test = GPPrior(lengthscale=0.2, noise=0.01, dtype=torch.float64)
    exact, gap = {}, {}
    for n in SIZES[setting]:
        x, y = test.sample(TESTED, n + 1, torch.Generator().manual_seed(10_000 + n))
        truth = -test.exact_predictive(x[:, :n], y[:, :n], x[:, n:]).log_prob(y[:, n:]).mean()
        exact[n] = truth.item()
        gap[n] = nll(model, x.float(), y.float(), n) - exact[n]
    x, y = test.sample(20, TRAININGS[setting]["n_points"], torch.Generator().manual_seed(9))
    return Fitted(setting, head, steps, seed, exact, gap, order(model, x, y))


@torch.no_grad()
def nll(model: PFN, x: Tensor, y: Tensor, n: int) -> float:
    """Mean negative log-likelihood of the targets after n contexts."""
    found: Any = model(x[:, :n], y[:, :n], x[:, n:])
    return -float(found.log_prob(y[:, n:]).mean())


@torch.no_grad()
def order(model: PFN, x: Tensor, y: Tensor) -> float:
    """The largest change of a predicted mean when all contexts but the last point, the query, are reversed."""
    exact = copy.deepcopy(model).double()
    known, targets, new = x[:, :-1], y[:, :-1], x[:, -1:]
    one, other = exact(known, targets, new).mean, exact(known.flip(1), targets.flip(1), new).mean
    return float((one - other).abs().max())


def modes(head: str, steps: int, seed: int, advance: Advance) -> Modes:
    """Trains on targets with two modes."""
    torch.manual_seed(seed)
    of_y: PFNHead = BarHead.of_prior(TwoModes(), 100) if head == BARS else GaussianHead()
    model = trained(PFN(0, of_y, d=16, layers=1, heads=2), TwoModes(), steps, seed, advance, n_points=10, lr=1e-2)
    x, y = TwoModes().sample(TESTED, 10, torch.Generator().manual_seed(10_000))
    return Modes(head, steps, seed, nll(model, x, y, 5))


def floors() -> Floors:
    """KL divergences of the best bars, with quantiles of the marginal as borders, from normal distributions."""
    return Floors([[*key, floor(*key)] for key in EXPECTED_FLOORS])


def floor(bars: int, mean: float, std: float) -> float:
    """KL(N(mean, std²) || best bars). Borders: quantiles of N(0, 1), or of N(0, 1.01) for narrow distributions."""
    marginal = Normal(torch.zeros((), dtype=torch.float64), 1.0 if std == 1 else math.sqrt(1.01))
    levels = torch.arange(bars + 1, dtype=torch.float64) / bars
    borders = marginal.icdf(levels.clamp(1 / 60_000, 1 - 1 / 60_000))
    target = Normal(torch.tensor(mean, dtype=torch.float64), std)
    below = target.cdf(borders[1:-1])
    masses = torch.cat([below, below.new_ones(1)]) - torch.cat([below.new_zeros(1), below])
    best = BarDistribution(masses.clamp(min=1e-300).log(), borders)
    y = torch.linspace(mean - 9 * std, mean + 9 * std, 100_001, dtype=torch.float64)
    logs = target.log_prob(y)
    return float((logs.exp() * (logs - best.log_prob(y))).sum() * (y[1] - y[0]))
