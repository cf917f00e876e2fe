"""R-hat and effective sample sizes against the published algorithm, draw by draw, and against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from probkernels.bnn import ess_bulk, ess_tail, rhat
from scipy import stats

FUNCTIONS = (rhat, ess_bulk, ess_tail)


def chains(seed: int, count: int, draws: int, correlation: float) -> np.ndarray:
    """Autoregressive chains whose stationary distribution is standard normal."""
    noise = np.random.default_rng(seed).standard_normal((count, draws))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0]
    for t in range(1, draws):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * noise[:, t]
    return x


# --- the published algorithm, written as in arviz: one quantity, loops over lags ---


def split(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def z_scale(x: np.ndarray) -> np.ndarray:
    rank = stats.rankdata(x, method="average").reshape(x.shape)
    return stats.norm.ppf((rank - 3 / 8) / (x.size + 1 / 4))


def plain_rhat(x: np.ndarray) -> float:
    n = x.shape[1]
    between, within = n * np.var(x.mean(1), ddof=1), np.mean(np.var(x, axis=1, ddof=1))
    return math.sqrt((between / within + n - 1) / n)


def plain_ess(x: np.ndarray) -> float:
    count, n = x.shape
    centered = x - x.mean(1, keepdims=True)
    covariance = np.array([[c[: n - t] @ c[t:] / n for t in range(n)] for c in centered]).mean(0)
    mean_var = covariance[0] * n / (n - 1)
    var_plus = mean_var * (n - 1) / n + (np.var(x.mean(1), ddof=1) if count > 1 else 0)
    rho, even = np.zeros(n), 1.0
    rho[0], rho[1] = 1, 1 - (mean_var - covariance[1]) / var_plus
    odd, t = rho[1], 1
    while t < n - 3 and even + odd > 0:
        even, odd = (1 - (mean_var - covariance[t + k]) / var_plus for k in (1, 2))
        if even + odd >= 0:
            rho[t + 1], rho[t + 2] = even, odd
        t += 2
    most = t - 2
    if even > 0:
        rho[most + 1] = even
    t = 1
    while t <= most - 2:
        if rho[t + 1] + rho[t + 2] > rho[t - 1] + rho[t]:
            rho[t + 1] = rho[t + 2] = (rho[t - 1] + rho[t]) / 2
        t += 2
    time = -1 + 2 * rho[: most + 1].sum() + rho[most + 1 : most + 2].sum()
    return count * n / max(time, 1 / math.log10(count * n))


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
@pytest.mark.parametrize("shape", [(4, 200), (1, 31), (3, 8), (2, 5), (2, 4)])
def test_equals_the_published_algorithm(shape: tuple[int, int], correlation: float) -> None:
    for seed in range(3):
        x = chains(seed, *shape, correlation)
        halves = split(x)
        folded = np.abs(halves - np.median(halves))
        expected = max(plain_rhat(z_scale(halves)), plain_rhat(z_scale(folded)))
        assert float(rhat(torch.from_numpy(x))) == pytest.approx(expected, rel=1e-10)
        assert float(ess_bulk(torch.from_numpy(x))) == pytest.approx(plain_ess(z_scale(halves)), rel=1e-8)
        if shape[1] >= 8:  # below, an indicator may be the same in all draws
            tails = [plain_ess(split((x <= np.quantile(x, q)).astype(float))) for q in (0.05, 0.95)]
            assert float(ess_tail(torch.from_numpy(x))) == pytest.approx(min(tails), rel=1e-8)


def test_effective_size_of_an_autoregressive_chain() -> None:
    """n (1 - a) / (1 + a)."""
    x = torch.from_numpy(chains(0, 4, 20_000, 0.6))
    assert float(ess_bulk(x)) == pytest.approx(80_000 * 0.4 / 1.6, rel=0.1)


def test_chains_that_differ_are_found() -> None:
    x = torch.from_numpy(chains(0, 4, 500, 0.0))
    assert float(rhat(x)) < 1.01
    assert float(rhat(x + torch.tensor([0.0, 0, 0, 1])[:, None])) > 1.05
    assert float(rhat(x * torch.tensor([1.0, 1, 1, 4])[:, None])) > 1.05  # the same means, another spread


def test_many_quantities_at_once() -> None:
    x = torch.from_numpy(np.stack([chains(k, 3, 50, 0.5) for k in range(6)], -1)).reshape(3, 50, 2, 3)
    for f in FUNCTIONS:
        whole = f(x)
        assert whole.shape == (2, 3)
        assert all(float(whole[i, j]) == pytest.approx(float(f(x[..., i, j]))) for i in range(2) for j in range(3))


def test_draws_that_say_nothing_give_nan() -> None:
    x = torch.randn(2, 20, 3)
    x[0, 3, 0], x[:, :, 1] = math.nan, 2.0
    for f in FUNCTIONS:
        assert f(x).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("f", FUNCTIONS)
def test_bad_draws(f: object) -> None:
    for draws, error in (
        (torch.zeros(5), ValueError),
        (torch.zeros(2, 3), ValueError),
        (torch.zeros(2, 9).half(), TypeError),
    ):
        with pytest.raises(error, match=f"{f.__name__}: argument 'draws'"):
            f(draws)
