"""Densities of posterior samples: against scikit-learn and autograd, fits to known laws, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from probkernels.bnn import GaussianMixture, RealNVP, fit_gaussian_mixture, fit_real_nvp
from torch import Tensor
from torch.distributions import MultivariateNormal

DOUBLE = torch.float64
FACTOR = torch.tensor([[1.0, 0, 0], [0.5, 2.0, 0], [-0.3, 0.1, 0.4]], dtype=DOUBLE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_humps(n: int = 900) -> Tensor:
    """A third at (5, 0, 0), spread by FACTOR; two thirds at the origin, of variance 1."""
    noise = torch.randn(n, 3, generator=generator(), dtype=DOUBLE)
    away = torch.arange(n)[:, None] % 3 == 0
    return torch.where(away, noise @ FACTOR.T + torch.tensor([5.0, 0.0, 0.0], dtype=DOUBLE), noise)


def mixture() -> GaussianMixture:
    weights = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    means = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 0.5]], dtype=DOUBLE)
    return GaussianMixture(weights, means, torch.stack([FACTOR, 0.5 * FACTOR]))


def scrambled(dim: int, seed: int = 0) -> RealNVP:
    """A flow whose couplings and scale do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = RealNVP(dim, hidden=16, dtype=DOUBLE)
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    flow.shift.copy_(torch.arange(dim))
    flow.log_scale.copy_(torch.linspace(-0.5, 0.5, dim))
    return flow


def test_mixture_density_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.mixture")
    ours, theirs = mixture(), sklearn.GaussianMixture(2)
    covariance = ours.factors @ ours.factors.mT
    theirs.weights_, theirs.means_ = ours.weights.numpy(), ours.means.numpy()
    theirs.covariances_ = covariance.numpy()
    theirs.precisions_cholesky_ = torch.linalg.cholesky(covariance.inverse()).numpy()
    x = torch.randn(20, 3, generator=generator(), dtype=DOUBLE)
    torch.testing.assert_close(ours.log_prob(x), torch.from_numpy(theirs.score_samples(x.numpy())))
    torch.testing.assert_close(ours.log_prob(x.view(4, 5, 3)), ours.log_prob(x).view(4, 5))
    assert torch.autograd.gradcheck(ours.log_prob, x[:3].clone().requires_grad_())


def test_mixture_draws_have_its_moments() -> None:
    law = mixture()
    drawn = law.sample(40_000, generator())
    mean = law.weights @ law.means
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
    second = torch.einsum(
        "k,kij->ij", law.weights, law.factors @ law.factors.mT + law.means[:, :, None] * law.means[:, None]
    )
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), second, rtol=0, atol=0.06)
    assert law.sample(0).shape == (0, 3)


def test_one_component_is_mean_and_covariance() -> None:
    x = 1e-3 * two_humps(300) + 5
    law = fit_gaussian_mixture(x, 1)
    torch.testing.assert_close(law.means[0], x.mean(0))
    torch.testing.assert_close(law.factors[0] @ law.factors[0].T, x.T.cov(correction=0), rtol=1e-4, atol=1e-10)
    assert law.scores == {}


def test_held_out_samples_choose_the_number_of_components() -> None:
    law = fit_gaussian_mixture(two_humps(), (1, 2, 8), generator=generator())
    assert law.components == 2 and set(law.scores) == {1, 2, 8}
    assert max(law.scores, key=law.scores.__getitem__) == 2
    order = law.weights.argsort()
    torch.testing.assert_close(law.weights[order], torch.tensor([1 / 3, 2 / 3], dtype=DOUBLE), rtol=0, atol=0.02)
    torch.testing.assert_close(law.factors[order[0]], FACTOR, rtol=0, atol=0.2)
    normal = torch.randn(900, 2, generator=generator(1), dtype=DOUBLE)
    single = fit_gaussian_mixture(normal, (1, 4), generator=generator())
    assert single.components == 1


def test_scores_are_those_of_the_samples_own_units() -> None:
    x = two_humps()
    plain, scaled = (fit_gaussian_mixture(v, (1, 2), generator=generator()).scores for v in (x, 10 * x))
    for k in (1, 2):
        assert plain[k] - scaled[k] == pytest.approx(3 * math.log(10), abs=1e-6)


@pytest.mark.parametrize("dim", [2, 4, 5])
def test_flow_is_inverted_and_its_determinant_is_that_of_autograd(dim: int) -> None:
    flow = scrambled(dim)
    x = torch.randn(6, dim, generator=generator(), dtype=DOUBLE)
    z, log_det = flow(x)
    torch.testing.assert_close(flow.inverse(z), x)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x[row])
        torch.testing.assert_close(log_det[row], jacobian.slogdet().logabsdet)
    normal = MultivariateNormal(torch.zeros(dim, dtype=DOUBLE), torch.eye(dim, dtype=DOUBLE))
    torch.testing.assert_close(flow.log_prob(x), normal.log_prob(z) + log_det)
    assert flow.log_prob(x.view(2, 3, dim)).shape == (2, 3)  # the authors' code returned a sum
    assert torch.autograd.gradcheck(flow.log_prob, x[:2].clone().requires_grad_())


def test_flow_density_integrates_to_one() -> None:
    flow = scrambled(2)
    axis = torch.linspace(-20, 20, 321, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        total = flow.log_prob(points).exp().sum() * 0.125**2
    torch.testing.assert_close(total, torch.ones((), dtype=DOUBLE), rtol=1e-3, atol=0)


def test_flow_learns_a_bent_law() -> None:
    torch.manual_seed(0)
    drawn = torch.randn(800, 2, generator=generator())
    bent = torch.stack([drawn[:, 0], 0.3 * drawn[:, 1] + drawn[:, 0].square()], 1) * 0.01 + 3
    train, test = bent[:600], bent[600:]
    flow = fit_real_nvp(train, hidden=32, epochs=40, batch=100, generator=generator())
    normal = fit_gaussian_mixture(train, 1)
    assert flow.log_prob(test).mean() > normal.log_prob(test).mean() + 0.5
    assert not any(parameter.requires_grad for parameter in flow.parameters())
    torch.testing.assert_close(flow.sample(4000, generator()).mean(0), bent.mean(0), rtol=0, atol=2e-3)


BAD: list[tuple[str, Callable[[], object]]] = [
    (r"'samples': expected finite numbers, got nan at \[0, 0\]",
     lambda: fit_gaussian_mixture(torch.full((9, 2), torch.nan))),
    ("'samples': expected samples that vary, got column 1",
     lambda: fit_gaussian_mixture(torch.eye(9)[:, :2] * torch.tensor([1.0, 0]))),
    (r"'samples': expected shape \(S, P\)", lambda: fit_real_nvp(torch.zeros(4, 3, 2))),
    ("'samples': expected enough samples", lambda: fit_gaussian_mixture(torch.randn(5, 6), 1)),
    ("'samples': expected enough samples", lambda: fit_gaussian_mixture(torch.randn(8, 2), (1, 8))),
    ("'components': expected a number >= 1", lambda: fit_gaussian_mixture(torch.randn(8, 2), [])),
    ("'samples': expected 2 samples or more", lambda: fit_real_nvp(torch.randn(3, 2))),
    ("'dim': expected a number >= 2", lambda: RealNVP(1)),
    (r"'x': expected points of shape \(\.\.\., 3\)", lambda: mixture().log_prob(torch.zeros(2, dtype=DOUBLE))),
    (r"'weights': expected shape \(1,\)",
     lambda: GaussianMixture(torch.ones(2), torch.zeros(1, 2), torch.eye(2)[None])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "call"), BAD)
def test_bad_input_is_named(text: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=text):
        call()
