"""Distances of samples against closed forms and scipy's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.bnn import energy_distance, sliced_wasserstein, wasserstein_1d


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 9), (1, 5), (13, 4)])
def test_wasserstein_equals_scipy(n: int, m: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = draws(2, n), 1.5 * draws(2, m, seed=1) + 0.3
    expected = torch.tensor([stats.wasserstein_distance(a, b) for a, b in zip(x, y, strict=True)], dtype=x.dtype)
    torch.testing.assert_close(wasserstein_1d(x, y), expected)


def test_closed_forms_of_normal_distributions() -> None:
    """W1(N(0, 4), N(0, 1)) = sqrt(2 / pi), which a critic hardly finds; a shift moves every slice by its cosine."""
    x, y = draws(50_000), draws(50_000, seed=1)
    assert abs(wasserstein_1d(2 * x, y) - math.sqrt(2 / math.pi)) < 0.02
    assert abs(wasserstein_1d(x + 3, y) - 3) < 0.02
    shift = torch.full((500, 10), 5.0, dtype=torch.float64)
    same = draws(500, 10, seed=2)
    mean_cosine = math.gamma(5) / math.gamma(5.5) / math.sqrt(math.pi)
    found = sliced_wasserstein(same, same + shift, 1000, torch.Generator().manual_seed(0))
    assert abs(found / (5 * math.sqrt(10) * mean_cosine) - 1) < 0.05


def test_energy_distance_has_no_bias() -> None:
    """Of equal distributions it is 0 in the mean, from as few as 3 samples; not so with self-pairs."""
    values = torch.stack([energy_distance(draws(3, 2, seed=2 * k), draws(3, 2, seed=2 * k + 1)) for k in range(500)])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(500)
    x, y = draws(1500, 1), draws(1500, 1, seed=1) + 2
    between = 2 * (math.exp(-1) / math.sqrt(math.pi) + math.erf(1))  # E|N(2, 2)|
    assert abs(energy_distance(x, y) - (2 * between - 4 / math.sqrt(math.pi))) < 0.15
    scipy = pytest.importorskip("scipy.stats")
    with_self = scipy.energy_distance(x[:500, 0], y[:500, 0]) ** 2  # of Cramer's form, with self-pairs
    assert abs(energy_distance(x[:500], y[:500]) - with_self) < 0.01


def test_gradients() -> None:
    x, y = draws(4, 2).requires_grad_(), draws(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(energy_distance, (x, y))
    assert torch.autograd.gradcheck(lambda a, b: wasserstein_1d(a.mT, b.mT), (x, y))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: energy_distance(torch.ones(1, 2), torch.ones(3, 2)), ValueError, "argument 'x'.*n >= 2"),
        (lambda: energy_distance(torch.ones(2, 2), torch.ones(3, 1)), ValueError, "argument 'y'"),
        (lambda: energy_distance(torch.ones(2, 2).half(), torch.ones(2, 2)), TypeError, "argument 'x'"),
        (lambda: sliced_wasserstein(torch.ones(2, 2), torch.full((2, 2), math.nan)), ValueError, "argument 'y'"),
        (lambda: sliced_wasserstein(torch.ones(2, 2), torch.ones(2, 2), 0), ValueError, "argument 'projections'"),
        (lambda: wasserstein_1d(torch.ones(0), torch.ones(2)), ValueError, "argument 'x': expected one sample"),
        (lambda: wasserstein_1d([1.0], torch.ones(2)), TypeError, "argument 'x'"),
    ],
    ids=lambda v: None,
)
def test_bad_arguments(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
