"""Bayesian optimization with any model that predicts a distribution: find the highest point of a function in few looks.

The loop needs a model(x_ctx, y_ctx, x_query) whose answer has expected_improvement(best): what a look at a point is
expected to add to the best value so far. Two such models run here. The functions come from a Gaussian process; one
model is exact, as their prior knows its predictive distribution. The other is a prior-fitted network with bars, trained
on that prior for a few seconds only. One batch optimizes all functions.

    python examples/bayesian_optimization.py
"""

from collections.abc import Callable
from typing import Any

import torch
from probkernels.amortized import PFN, BarHead, GPPrior, fit_prior
from probkernels.kernel_methods import RBF, GPSampler
from torch import Tensor
from torch.distributions import Normal

FUNCTIONS, LOOKS, STEPS = 100, 15, 600
GRID = torch.linspace(-2, 2, 100, dtype=torch.float64)[:, None]


class Improving(Normal):
    """A Normal that knows what improvement over the best value it promises."""

    def expected_improvement(self, best: Tensor) -> Tensor:
        gain = self.mean - best
        unit = Normal(torch.zeros_like(gain), 1.0)
        z = gain / self.stddev
        return gain * unit.cdf(z) + self.stddev * unit.log_prob(z).exp()


class ExactModel:
    """The predictive distribution of a prior in closed form, as a model."""

    def __init__(self, prior: GPPrior) -> None:
        self.prior = prior

    def __call__(self, x_ctx: Tensor, y_ctx: Tensor, x_query: Tensor) -> Improving:
        law = self.prior.exact_predictive(x_ctx, y_ctx, x_query)
        return Improving(law.mean, law.stddev)


def fitted_network() -> Callable[..., Any]:
    """A prior-fitted network for these functions; its answer is a BarDistribution, which knows its improvement."""
    prior = GPPrior(lengthscale=0.3, noise=1e-4, low=-2.0, high=2.0)
    torch.manual_seed(0)
    model = PFN(1, BarHead.of_prior(prior, n_bars=100), d=32, layers=2)
    fit_prior(model, prior, STEPS, n_points=LOOKS + 5, max_context=LOOKS, batch_size=32, lr=3e-3)
    return lambda x, y, new: model(x.float(), y.float(), new.float())


@torch.no_grad()
def by_improvement(model: Callable[..., Any], grid: Tensor, seen: Tensor, y: Tensor) -> Tensor:
    """The next point of each function: that of the largest expected improvement over the best value SEEN."""
    x_ctx = grid[seen]
    law = model(x_ctx, y, grid.expand(len(seen), -1, -1))
    gain = law.expected_improvement(y.max(1, keepdim=True).values)
    return gain.scatter(1, seen, -1.0).argmax(1)  # no point twice


def optimize(values: Tensor, first: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Looks at functions (F, N) one point at a time: regret (F, LOOKS), 1 after the first look and 0 at the top."""
    seen = first[:, None]
    while seen.shape[1] < LOOKS:
        seen = torch.cat([seen, choose(seen, values.gather(1, seen))[:, None]], 1)
    best = values.gather(1, seen).cummax(1).values
    top = values.max(1, keepdim=True).values
    return (top - best) / (top - best[:, :1]).clamp(min=1e-9)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    values = GPSampler(RBF(lengthscale=0.3))(GRID, FUNCTIONS, generator)
    first = torch.randint(len(GRID), (FUNCTIONS,), generator=generator)
    model = ExactModel(GPPrior(lengthscale=0.3, noise=1e-6, low=-2.0, high=2.0, dtype=torch.float64))

    def at_random(seen: Tensor, y: Tensor) -> Tensor:
        return torch.rand(FUNCTIONS, len(GRID), generator=generator).scatter(1, seen, -1.0).argmax(1)

    informed = optimize(values, first, lambda seen, y: by_improvement(model, GRID, seen, y))
    network = fitted_network()
    learned = optimize(values, first, lambda seen, y: by_improvement(network, GRID, seen, y))
    blind = optimize(values, first, at_random)
    for looks in (5, 10, 15):
        rows = [f"{regret[:, looks - 1].mean():.3f}" for regret in (informed, learned, blind)]
        print(
            f"regret after {looks} looks: {rows[0]} by the exact model, {rows[1]} by the network, {rows[2]} at random"
        )
    print(f"top found: {100 * (informed[:, -1] < 1e-3).double().mean():.1f} % of functions")


if __name__ == "__main__":
    main()
