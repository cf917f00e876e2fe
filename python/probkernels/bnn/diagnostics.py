"""Convergence diagnostics of Markov chains: split R-hat and effective sample sizes, rank-normalized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

LEAST_DRAWS = 4


def rhat(draws: Tensor) -> Tensor:
    """The potential scale reduction factor: near 1 if chains agree, above 1.01 if they do not.

    The larger of the split R-hat of rank-normalized draws, and of that of their distances to the median, which finds
    chains that differ in spread.

    Args:
        draws: (chains, draws, ...) float32 or float64, at least four draws.

    Returns:
        (...) float64; NaN where a draw is not finite or all are equal.

    Raises:
        TypeError, ValueError: the dtype is wrong, or there are too few dimensions or draws.

    Reference: Vehtari et al., "Rank-normalization, folding, and localization: An improved R-hat for assessing
    convergence of MCMC", Bayesian Analysis 2021.

    Example:
        >>> import torch
        >>> from probkernels.bnn import rhat
        >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
        >>> bool(rhat(draws) < 1.01), bool(rhat(draws + torch.arange(4)[:, None]) > 1.4)
        (True, True)
    """
    x = _split(_checked("rhat", draws))
    median = _quantile(x.flatten(0, 1), 0.5)
    return torch.maximum(_rhat(_normalized(x)), _rhat(_normalized((x - median).abs())))


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective number of independent draws for the center of a distribution: that of rank-normalized split chains.

    Args:
        draws: (chains, draws, ...) float32 or float64, at least four draws.

    Returns:
        (...) float64; NaN where a draw is not finite or all are equal.

    Raises:
        TypeError, ValueError: the dtype is wrong, or there are too few dimensions or draws.

    Reference: as :func:`rhat`.

    Example:
        >>> import torch
        >>> from probkernels.bnn import ess_bulk
        >>> bool(ess_bulk(torch.randn(4, 500, generator=torch.Generator().manual_seed(0))) > 1500)
        True
    """
    return _ess(_normalized(_split(_checked("ess_bulk", draws))))


def ess_tail(draws: Tensor) -> Tensor:
    """Effective number of independent draws for the tails: the smaller one of the 5 % and 95 % quantiles.

    Args:
        draws: (chains, draws, ...) float32 or float64, at least four draws.

    Returns:
        (...) float64; NaN where a draw is not finite or all are equal.

    Raises:
        TypeError, ValueError: the dtype is wrong, or there are too few dimensions or draws.

    Reference: as :func:`rhat`.

    Example:
        >>> import torch
        >>> from probkernels.bnn import ess_tail
        >>> bool(ess_tail(torch.randn(4, 500, generator=torch.Generator().manual_seed(0))) > 1000)
        True
    """
    x = _checked("ess_tail", draws)
    flat = x.flatten(0, 1)
    low, high = (_ess(_split((x <= _quantile(flat, q)).to(x.dtype))) for q in (0.05, 0.95))
    return torch.where(flat.isfinite().all(0), torch.minimum(low, high), math.nan)


def _checked(op: str, draws: Tensor) -> Tensor:
    checks.wide_float_tensor(op, "draws", draws)
    if draws.dim() < 2 or draws.shape[1] < LEAST_DRAWS or draws.shape[0] < 1:
        wanted = f"shape (chains, draws, ...) with {LEAST_DRAWS} draws or more"
        raise ValueError(message(op, "draws", wanted, f"shape {tuple(draws.shape)}"))
    return draws.detach().double()


def _split(x: Tensor) -> Tensor:
    """(2 chains, draws // 2, ...): both halves of every chain, without the draw in the middle of an odd number."""
    half = x.shape[1] // 2
    return torch.cat([x[:, :half], x[:, -half:]])


def _quantile(x: Tensor, q: float) -> Tensor:
    """By linear interpolation along dim 0; torch's own has a limit on the size."""
    ascending, at = x.sort(0).values, q * (x.shape[0] - 1)
    share = at - math.floor(at)
    return ascending[math.floor(at)] * (1 - share) + ascending[math.ceil(at)] * share


def _normalized(x: Tensor) -> Tensor:
    """Normal scores of the ranks among all draws; equal draws share their mean rank."""
    flat = x.flatten(0, 1)
    ordered = flat.reshape(len(flat), -1).T.contiguous()  # (quantities, draws)
    ascending = ordered.sort(1).values
    below = torch.searchsorted(ascending, ordered)
    upto = torch.searchsorted(ascending, ordered, right=True)
    rank = (below + upto + 1).double() / 2
    scores = torch.special.ndtri((rank - 3 / 8) / (flat.shape[0] + 1 / 4))
    scores = torch.where(ordered.isfinite().all(1, keepdim=True), scores, math.nan)
    return scores.T.reshape(x.shape)


def _variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean variance within chains, and the estimate of the variance of the target."""
    n = x.shape[1]
    within = x.var(1).mean(0)
    between = x.mean(1).var(0) if x.shape[0] > 1 else torch.zeros_like(within)
    return within, within * (n - 1) / n + between


def _rhat(x: Tensor) -> Tensor:
    within, total = _variances(x)
    return (total / within).sqrt()


def _autocovariance(x: Tensor) -> Tensor:
    """Biased autocovariance of each chain at all lags, by FFT."""
    n = x.shape[1]
    centered = x - x.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centered, 2 * n, 1)
    return torch.fft.irfft(spectrum.abs().square(), 2 * n, 1)[:, :n] / n


def _ess(x: Tensor) -> Tensor:
    """Geyer's initial monotone sequence of sums of neighboring autocorrelations, over all chains."""
    chains, n = x.shape[:2]
    covariance = _autocovariance(x).mean(0)
    within, total = _variances(x)
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    pairs = max((n - 3) // 2, 0)  # as many as arviz looks at
    sums = rho[0 : 2 * pairs : 2] + rho[1 : 2 * pairs : 2]  # (pairs, ...)
    going = (sums > 0).long().cumprod(0).bool()
    monotone = sums.cummin(0).values if pairs else sums
    count = going.sum(0)
    last = rho.gather(0, 2 * count[None])[0]  # of the pair where the sum ends, its even part if that is positive
    time = -1 + 2 * torch.where(going, monotone, 0.0).sum(0) + last.clamp(min=0)
    time = time.clamp(min=1 / math.log10(chains * n))
    return torch.where(total > 0, chains * n / time, math.nan)
