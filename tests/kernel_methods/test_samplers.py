"""Samplers of functions: covariances, priors, generators, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.kernel_methods import RBF, GPSampler
from torch import Tensor
from torch.distributions import LogNormal, Uniform

from .test_gp_kernels import matern

X = torch.linspace(0, 2, 6, dtype=torch.float64)[:, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(values: Tensor) -> Tensor:
    return values.mT @ values / len(values)


def test_functions_have_the_covariance_of_the_kernel() -> None:
    sampler = GPSampler(1.5 * RBF(0.7) + matern)
    with torch.no_grad():
        expected = (1.5 * RBF(0.7) + matern)(X)
    torch.testing.assert_close(covariance(sampler(X, 40_000, seeded())), expected, rtol=0, atol=0.08)
    assert sampler(X.float(), 2).dtype == torch.float32 and not sampler(X, 2).requires_grad


def test_each_function_draws_its_hyperparameters() -> None:
    sampler = GPSampler(RBF, priors={"variance": Uniform(0.5, 1.5), "lengthscale": LogNormal(0.0, 0.1)})
    values = sampler(X, 1000, seeded())
    assert covariance(values).diagonal().mean().item() == pytest.approx(1.0, abs=0.15)
    kurtosis = values.pow(4).mean(0) / values.square().mean(0).square()
    assert 3.02 < kurtosis.mean() < 3.7  # 3 (1 + var / mean^2) = 3.25: a mixture of scales


def test_functions_may_have_points_of_their_own() -> None:
    each = torch.stack([X, X + 5, 2 * X])
    assert GPSampler(matern)(each, 3, seeded()).shape == (3, 6)
    same = GPSampler(matern)(X.expand(3, -1, -1), 3, seeded())
    torch.testing.assert_close(same, GPSampler(matern)(X, 3, seeded()))


def test_a_generator_decides_all_draws_and_the_default_one_stays() -> None:
    sampler = GPSampler(RBF, priors={"variance": Uniform(0.5, 1.5)})
    state = torch.get_rng_state()
    one, other = sampler(X, 4, seeded()), sampler(X, 4, seeded())
    assert torch.equal(one, other) and torch.equal(state, torch.get_rng_state())
    generator = seeded()
    assert not torch.equal(sampler(X, 4, generator), sampler(X, 4, generator))
    torch.manual_seed(3)
    first = sampler(X, 4)
    second = sampler(X, 4)
    torch.manual_seed(3)
    assert torch.equal(first, sampler(X, 4)) and not torch.equal(first, second)


def test_blocks_of_functions_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = GPSampler(RBF, priors={"variance": Uniform(0.5, 1.5)})
    whole = sampler(X, 5, seeded())
    monkeypatch.setattr("probkernels.kernel_methods.samplers.ENTRIES", 72)
    torch.testing.assert_close(sampler(X, 5, seeded()), whole)


def test_equal_points_have_equal_values() -> None:
    values = GPSampler(RBF())(torch.zeros(3, 2), 4, seeded())
    torch.testing.assert_close(values, values[:, :1].expand(-1, 3), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (TypeError, "'priors': expected a torch distribution for 'a'", lambda: GPSampler(RBF, priors={"a": 1.0})),
        (TypeError, "pass the class: RBF", lambda: GPSampler(RBF(), priors={"variance": Uniform(0, 1)})),
        (TypeError, "'kernel'", lambda: GPSampler(3)),
        (TypeError, "'kernel'", lambda: GPSampler(3, priors={"a": Uniform(0, 1)})),
        (ValueError, "'n'", lambda: GPSampler(RBF())(X, 0)),
        (ValueError, r"'x': expected shape \(M, D\) or \(3, M, D\)", lambda: GPSampler(RBF())(X[None], 3)),
        (ValueError, "'x': expected shape", lambda: GPSampler(RBF())(X[:0], 3)),
        (TypeError, "'x'", lambda: GPSampler(RBF())(X.half(), 3)),
        (ValueError, "'kernel': expected a positive", lambda: GPSampler(lambda x, z: -matern(x, z))(X, 3)),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
