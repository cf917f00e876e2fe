"""Martingale posteriors: the generator, the three terms of the loss, closed forms, predictive resampling."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels.amortized import (
    CNP,
    MPANP,
    MPNP,
    FunctionMixture,
    GaussianMean,
    ISABGenerator,
    PolyaUrn,
    fit_neural_process,
    predictive_resample,
)
from torch import Tensor, nn

from .np_support import DeFinetti, points, seeded, small

MARTINGALE = pytest.mark.parametrize("kind", [MPNP, MPANP], ids=lambda kind: kind.__name__)


class Mean(nn.Module):
    """Pseudo contexts that repeat the mean of the contexts."""

    def forward(self, contexts: Tensor, noise: Tensor, mask: Tensor | None) -> Tensor:
        return contexts.mean(1)[None, :, None].expand_as(noise)


def test_generator_is_equivariant() -> None:
    torch.manual_seed(0)
    generate = ISABGenerator(8, heads=2).double()
    contexts, noise = (torch.randn(*shape, 8, dtype=torch.float64) for shape in ((3, 5), (4, 3, 6)))
    expected = generate(contexts, noise)
    assert float(expected.detach().std(2).min()) > 0
    close = {"rtol": 1e-12, "atol": 1e-12}
    order = torch.randperm(6)
    torch.testing.assert_close(generate(contexts, noise[:, :, order]), expected[:, :, order], **close)
    torch.testing.assert_close(generate(contexts[:, torch.randperm(5)], noise), expected, **close)
    wide = torch.cat([contexts, torch.full_like(contexts[:, :2], 3.0)], 1)
    torch.testing.assert_close(generate(wide, noise, torch.arange(7).expand(3, -1) < 5), expected, **close)
    torch.testing.assert_close(generate(contexts, noise[1:2]), expected[1:2], **close)


@pytest.mark.parametrize("n_pseudo", [0, 1, 7])
def test_pseudo_contexts_at_the_mean_change_nothing(n_pseudo: int) -> None:
    """The marginal term is then the amortization term; without pseudo contexts the model is a CNP."""
    model, (x, y), (t, u) = small(MPNP, n_pseudo=n_pseudo), points(4), points(6, seed=2)
    if n_pseudo:
        model.generate = Mean()
    for k in (1, 5):
        terms = model.losses(x, y, t, u, n_samples=k)
        torch.testing.assert_close(terms.marginal, terms.amortization, rtol=1e-12, atol=1e-12)
    plain = small(CNP)
    plain.load_state_dict({name: p for name, p in model.state_dict().items() if not name.startswith("generate")})
    torch.testing.assert_close(model(x, y, t).mean, plain(x, y, t).mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms.amortization, plain.loss(x, y, t, u), rtol=1e-12, atol=1e-12)


@MARTINGALE
def test_terms_of_the_loss(kind: type[MPNP]) -> None:
    """The marginal term lies between the best and the mean function; loss() weighs the terms."""
    model, (x, y), (t, u) = small(kind, n_pseudo=2, weights=(1.0, 0.5, 0.1)), points(4), points(6, seed=2)
    terms = model.losses(x, y, t, u, n_samples=6, generator=seeded())
    every = model(x, y, torch.cat([x, t], 1), n_samples=6, generator=seeded())
    nll = -every.log_probs(torch.cat([y, u], 1)).mean(-1)  # (K, B), a point
    assert nll.min(0).values.mean() < terms.marginal < nll.mean()
    torch.testing.assert_close(terms.marginal, -every.joint_log_prob(torch.cat([y, u], 1)).mean() / 10)
    whole = model.loss(x, y, t, u, n_samples=6, generator=seeded())
    torch.testing.assert_close(whole, terms.marginal + 0.5 * terms.amortization + 0.1 * terms.pseudo)


@MARTINGALE
def test_gradients_of_each_term(kind: type[MPNP]) -> None:
    """Marginal and pseudo reach the generator and, through it, the encoder; amortization reaches the encoder alone."""
    model, (x, y), (t, u) = small(kind, n_pseudo=2), points(4), points(6, seed=2)
    for index in range(3):
        model.zero_grad()
        model.losses(x, y, t, u, n_samples=3, generator=seeded())[index].backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in model.generate.parameters()]
        assert all(reached) if index != 1 else not any(reached)
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.encoder.points.parameters())


def test_marginal_term_falls_with_the_number_of_functions() -> None:
    model, (x, y), (t, u) = small(MPNP), points(4), points(6, seed=2)
    with torch.no_grad():
        few, many = (
            sum(float(model.losses(x, y, t, u, n_samples=k, generator=seeded(s)).marginal) for s in range(40))
            for k in (1, 10)
        )
    assert many < few


def test_many_pseudo_contexts_average_out() -> None:
    """As long as the generator has not learned to correlate them."""
    features, spread = torch.randn(3, 4, 16, generator=seeded(), dtype=torch.float64), []
    for n_pseudo in (1, 400):
        drawn = small(MPNP, n_pseudo=n_pseudo).pseudo_contexts(features, None, 100, seeded())
        spread.append(float(drawn.detach().mean(2).std(0).mean()))
    assert spread[1] < spread[0] / 10


def exact(n: int, tasks: int = 1000, functions: int = 100) -> tuple[float, float]:
    """Marginal and joint log density a target of the exact posterior's functions, at its quantiles."""
    _, y = DeFinetti().sample(tasks, n + 10, seeded(n))
    y, stddev = y.double(), DeFinetti.stddev
    variance = 1 / (1 + n / stddev**2)
    center = variance * y[:, :n].sum(1) / stddev**2
    levels = (torch.arange(functions, dtype=torch.float64) + 0.5) / functions
    theta = center + math.sqrt(variance) * torch.special.ndtri(levels)[:, None]
    found = FunctionMixture(theta[..., None].expand(-1, -1, 10), torch.full((functions, tasks, 10), stddev).double())
    return float(found.log_prob(y[:, n:]).mean()), float(found.joint_log_prob(y[:, n:]).mean()) / 10


@pytest.mark.parametrize(("n", "marginal", "joint"), [(1, -0.540, -0.331), (2, -0.410, -0.303), (5, -0.305, -0.269)])
def test_ceiling_of_the_linear_gaussian_task(n: int, marginal: float, joint: float) -> None:
    s2 = DeFinetti.stddev**2
    v = 1 / (1 + n / s2)
    closed = -(math.log(2 * math.pi) + math.log(s2) + math.log1p(10 * v / s2) / 10 + 1) / 2
    assert closed == pytest.approx(joint, abs=6e-4)
    assert -(math.log(2 * math.pi * (v + s2)) + 1) / 2 == pytest.approx(marginal, abs=6e-4)
    assert exact(n) == pytest.approx((marginal, joint), abs=0.03)


def test_mixture() -> None:
    """Densities and moments against torch's mixture; draws share a function; one function has joint = marginal."""
    g = seeded()
    means, y = torch.randn(5, 2, 3, generator=g).double(), torch.randn(2, 3, generator=g).double()
    stddevs = torch.rand(5, 2, 3, generator=g).double() + 0.1
    found = FunctionMixture(means, stddevs)
    parts = torch.distributions.Normal(means.movedim(0, -1), stddevs.movedim(0, -1))
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2, 3, 5).double()), parts
    )
    torch.testing.assert_close(found.log_prob(y), expected.log_prob(y))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)
    rows = torch.distributions.Normal(means, stddevs).log_prob(y).sum(-1)
    torch.testing.assert_close(found.joint_log_prob(y), rows.exp().mean(0).log())
    one = FunctionMixture(means[:1], stddevs[:1])
    torch.testing.assert_close(one.joint_log_prob(y), one.log_prob(y).sum(-1))
    mask = torch.tensor([[True, False, True], [True, True, True]])
    hidden = y.masked_fill(~mask, math.nan)
    torch.testing.assert_close(found.log_prob(hidden, mask), found.log_prob(y) * mask)
    torch.testing.assert_close(found.joint_log_prob(hidden, mask)[1], found.joint_log_prob(y)[1])
    far = FunctionMixture(torch.tensor([[[-9.0, -9.0]], [[9.0, 9.0]]]), torch.full((2, 1, 2), 0.1))
    draws = far.sample(200, seeded())
    assert bool((draws[..., 0].sign() == draws[..., 1].sign()).all())
    assert 60 < int((draws[..., 0] > 0).sum()) < 140


def test_gaussian_mean() -> None:
    """Var(theta_N) = stddev^2 times the sum of 1 / i^2 over the imagined observations."""
    exact = sum(1 / i**2 for i in range(11, 2001))
    assert exact == pytest.approx(0.09466646, abs=1e-8)
    start = torch.full((20_000,), 0.7, dtype=torch.float64)
    draws = predictive_resample(GaussianMean(1.0), start, 1990, n_seen=10, generator=seeded())
    assert float(draws.var()) == pytest.approx(exact, rel=0.03)
    assert float(draws.mean()) == pytest.approx(0.7, abs=0.01)


def test_polya_urn() -> None:
    """M future draws after n have Var(mean) = s^2 / (n + 1) * M / (n + M): .2076 in the limit."""
    y, future = torch.tensor([-1.2, 0.3, 0.8, 2.1, -0.4]), 200
    limit = float(y.var(correction=0)) / 6
    assert limit == pytest.approx(0.2076, abs=1e-6)
    draws = predictive_resample(
        PolyaUrn(), torch.ones(5_000, 5), future, n_seen=5,
        statistic=lambda counts: counts @ y / counts.sum(1), generator=seeded(),
    )  # fmt: skip
    assert float(draws.var()) == pytest.approx(limit * future / (future + 5), rel=0.05)
    assert float(draws.mean()) == pytest.approx(0.32, abs=0.015)


def test_resampling_refuses_what_it_cannot_use() -> None:
    with pytest.raises(TypeError, match=r"'predictive'.*'sample' and 'update'"):
        predictive_resample(object(), torch.zeros(1), 3, n_seen=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_future"):
        predictive_resample(GaussianMean(1.0), torch.zeros(1), -1, n_seen=1)
    state = torch.zeros(3)
    assert predictive_resample(GaussianMean(1.0), state, 0, n_seen=1) is state


def test_fit_is_decided_by_its_seed() -> None:
    def fitted(seed: int) -> tuple[list[float], MPNP]:
        torch.manual_seed(0)
        model = MPNP(1, width=8, heads=2, encoders=1)
        options = {"n_context": (1, 5), "n_target": (2, 4), "most_points": 8, "n_samples": 4, "seed": seed}
        return fit_neural_process(model, DeFinetti(), 20, lr=1e-2, **options), model

    (losses, model), (again, same) = fitted(1), fitted(1)
    assert losses == again and losses != fitted(2)[0]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), same.parameters(), strict=True))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_fit_refuses_what_it_cannot_use() -> None:
    class Short:
        def sample(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
            return torch.zeros(batch, 1, 1), torch.zeros(batch, 1)

    model = CNP(1, width=8)
    for prior, options, error, text in (
        (Short(), {}, ValueError, "prior.*x of shape"),
        (None, {}, TypeError, "prior.*method sample"),
        (DeFinetti(), {"n_context": (5, 3)}, ValueError, "n_context"),
        (DeFinetti(), {"n_context": 5}, TypeError, "n_context"),
        (DeFinetti(), {"most_points": 10}, ValueError, "most_points"),
        (DeFinetti(), {"lr": -1.0}, ValueError, "lr"),
    ):
        with pytest.raises(error, match=text):
            fit_neural_process(model, prior, 1, **options)  # type: ignore[arg-type]
