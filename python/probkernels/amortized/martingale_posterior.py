"""Martingale posteriors by predictive resampling: no network, any sequential predictive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


class SequentialPredictive(Protocol):
    """A predictive distribution that changes with every observation. Its state is anything, for many draws at once."""

    def sample(self, state: Any, n: int, generator: torch.Generator | None) -> Any:
        """Draws the next observation of every draw, after n observations."""

    def update(self, state: Any, y: Any, n: int) -> Any:
        """The state after one more observation y; n counts those before it."""


def predictive_resample(
    predictive: SequentialPredictive,
    state: Any,
    n_future: int,
    *,
    n_seen: int,
    statistic: Callable[[Any], Any] | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    """Draws from a martingale posterior: imagines future observations one by one, each from all before it.

    Args:
        predictive: an object with ``sample(state, n, generator)`` and ``update(state, y, n)``, such as
            :class:`GaussianMean` or :class:`PolyaUrn`. They work on all draws at once.
        state: what the observed data say, with one entry for each draw of the posterior.
        n_future: observations to imagine. With more of them, the spread comes closer to that of the posterior.
        n_seen: number of observations behind ``state``.
        statistic: what to return of the last state; None for the state itself.
        generator: of all draws.

    Returns:
        ``statistic`` of the last state.

    Raises:
        TypeError, ValueError: a number is out of range, or the predictive has no ``sample`` or ``update``.

    Reference: Fong, Holmes, Walker, "Martingale Posterior Distributions", JRSS B 2023.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GaussianMean, predictive_resample
        >>> y = torch.tensor([0.1, -0.4, 0.9, 0.2])
        >>> draws = predictive_resample(GaussianMean(stddev=1.0), y.mean().expand(5000), 400, n_seen=4,
        ...                             generator=torch.Generator().manual_seed(0))
        >>> print(f"{draws.mean():.1f} {draws.std():.1f}")
        0.2 0.5
    """
    for name in ("sample", "update"):
        if not callable(getattr(predictive, name, None)):
            expected = "an object with methods 'sample' and 'update'"
            raise TypeError(message("predictive_resample", "predictive", expected, checks.describe(predictive)))
    checks.integer("predictive_resample", "n_future", n_future, 0)
    checks.integer("predictive_resample", "n_seen", n_seen, 0)
    for n in range(n_seen, n_seen + n_future):
        state = predictive.update(state, predictive.sample(state, n, generator), n)
    return state if statistic is None else statistic(state)


class GaussianMean:
    """The predictive N(mean of all observations so far, stddev^2). Its state is that mean, (draws, ...).

    Args:
        stddev: known standard deviation of the observations.

    Raises:
        TypeError, ValueError: it is no positive number.

    Example:
        >>> import torch
        >>> from probkernels.amortized import GaussianMean
        >>> GaussianMean(1.0).update(torch.tensor([2.0]), torch.tensor([5.0]), n=2)
        tensor([3.])
    """

    def __init__(self, stddev: float) -> None:
        checks.positive("GaussianMean", "stddev", stddev)
        self.stddev = stddev

    def sample(self, state: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """An observation of every draw."""
        noise = torch.randn(state.shape, generator=generator, dtype=state.dtype, device=state.device)
        return state + self.stddev * noise

    def update(self, state: Tensor, y: Tensor, n: int) -> Tensor:
        """The mean with y, after n observations."""
        return state + (y - state) / (n + 1)


class PolyaUrn:
    """The predictive that repeats an observation so far, all equally likely: in the limit the Bayesian bootstrap.

    Its state are counts (draws, observations): how often each of the first observations has occurred. Start from ones;
    weights of a statistic are the counts over their sum.

    Example:
        >>> import torch
        >>> from probkernels.amortized import PolyaUrn, predictive_resample
        >>> y = torch.tensor([-1.2, 0.3, 0.8, 2.1, -0.4])
        >>> means = predictive_resample(PolyaUrn(), torch.ones(5000, 5), 200, n_seen=5,
        ...                             statistic=lambda counts: counts @ y / counts.sum(1),
        ...                             generator=torch.Generator().manual_seed(0))
        >>> print(f"{means.mean():.1f} {means.std():.2f}")
        0.3 0.45
    """

    def sample(self, state: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The index of an observation, for every draw: (draws, 1)."""
        return torch.multinomial(state, 1, generator=generator)

    def update(self, state: Tensor, y: Tensor, n: int) -> Tensor:
        """Counts with one more of index y."""
        return state.scatter_add(1, y, torch.ones_like(y, dtype=state.dtype))
