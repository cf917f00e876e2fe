"""HMC and SGHMC against the closed form of Bayesian linear regression, and what samplers promise."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import pytest
import torch
from probkernels.bnn import (
    HMC,
    AdaptiveSGHMC,
    CategoricalLikelihood,
    GaussianLikelihood,
    GaussianPrior,
    HierarchicalPrior,
    PosteriorSamples,
    ess_bulk,
    rhat,
    sample_posterior,
    scaled_mlp,
)
from probkernels.bnn._target import Target
from torch import Tensor, nn

NOISE = 0.3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 2, generator=GENERATOR, dtype=torch.float64) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double()
Y = X @ torch.tensor([[1.5], [-0.5]]).double() + math.sqrt(NOISE) * torch.randn(12, 1, generator=GENERATOR).double()


def linear() -> nn.Linear:
    return nn.Linear(2, 1).double()


def closed_form() -> tuple[Tensor, Tensor]:
    """Mean and covariance of (weight, bias) under the prior N(0, 1)."""
    phi = torch.cat([X, torch.ones(12, 1, dtype=torch.float64)], 1)
    covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + phi.T @ phi / NOISE)
    return (covariance @ phi.T @ Y / NOISE)[:, 0], covariance


def flat(posterior: PosteriorSamples) -> Tensor:
    """(chains, samples, P)."""
    return torch.cat([p.flatten(2) for p in posterior.params.values()], 2)


# --- oracles ---


def test_hmc_finds_the_posterior_of_linear_regression() -> None:
    net = linear()
    posterior = HMC(0.1, 4).sample(net, GaussianPrior(net), GaussianLikelihood(NOISE), X, Y,
                                   chains=64, samples=120, warmup=80)  # fmt: skip
    draws, (mean, covariance) = flat(posterior), closed_form()
    error = (covariance.diagonal() / ess_bulk(draws)).sqrt()
    assert ((draws.flatten(0, 1).mean(0) - mean).abs() < 5 * error).all()
    assert (torch.cov(draws.flatten(0, 1).T) - covariance).abs().max() < 0.06 * covariance.abs().max()
    assert rhat(draws).max() < 1.06
    assert 0.6 < posterior.acceptance.mean() < 0.95  # adapted to 0.8
    f = posterior.predict(X)[0]
    assert (f - (X @ mean[:2, None] + mean[2])).abs().max() < 0.05


def test_sghmc_finds_the_posterior_of_linear_regression() -> None:
    net = linear()
    posterior = sample_posterior(net, GaussianPrior(net), GaussianLikelihood(NOISE), X, Y, chains=512, samples=10,
                                 burn_in=400, keep_every=30, lr=0.03, mdecay=0.05)  # fmt: skip
    draws, (mean, covariance) = flat(posterior), closed_form()
    scale = covariance.diagonal().sqrt()
    assert ((draws.flatten(0, 1).mean(0) - mean).abs() < 0.1 * scale).all()
    assert (
        torch.cov(draws.flatten(0, 1).T) / scale / scale[:, None] - covariance / scale / scale[:, None]
    ).abs().max() < 0.15


def test_leapfrog_is_reversible_and_its_error_of_second_order() -> None:
    net = scaled_mlp((2, 5, 1), dtype=torch.float64)
    target = Target("test", net, GaussianPrior(net), GaussianLikelihood(NOISE), X, Y)
    generator = torch.Generator().manual_seed(0)
    start = target.start(6, generator, None)
    momentum = torch.randn(start.shape, generator=generator, dtype=torch.float64)

    def walk(q: Tensor, p: Tensor, size: float, steps: int) -> tuple[Tensor, Tensor]:
        p = p - size / 2 * target.gradient(q)[1]
        for k in range(steps):
            q = q + size * p
            p = p - (size if k < steps - 1 else size / 2) * target.gradient(q)[1]
        return q, p

    def energy(q: Tensor, p: Tensor) -> Tensor:
        return target.gradient(q)[0] + p.square().sum(1) / 2

    q, p = walk(start, momentum, 0.005, 40)
    back, _ = walk(q, -p, 0.005, 40)
    torch.testing.assert_close(back, start, atol=1e-9, rtol=0)
    errors = [
        (energy(*walk(start, momentum, size, int(0.2 / size))) - energy(start, momentum)).abs().mean()
        for size in (0.004, 0.002)
    ]
    assert 3.0 < errors[0] / errors[1] < 5.0


def test_hierarchical_variances_are_sampled_with_the_parameters() -> None:
    """One weight, almost no information in the data: the posterior is the prior, a Student t."""
    net = nn.Linear(1, 1, bias=False).double()
    x, y = torch.full((1, 1), 1e-6, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    posterior = HMC(0.3, 6).sample(net, HierarchicalPrior(net, 3.0, 3.0), GaussianLikelihood(1.0), x, y,
                                   chains=1000, samples=20, warmup=30, keep_every=2)  # fmt: skip
    w, variance = flat(posterior).flatten(), posterior.variances["weight"].flatten()
    assert abs((1 / variance).mean() - 1) < 0.08
    quantiles = torch.quantile(w.abs(), torch.tensor([0.5, 0.9], dtype=torch.float64))
    assert abs(quantiles[0] / 0.7176 - 1) < 0.06  # of |t| with 6 degrees of freedom
    assert abs(quantiles[1] / 1.9432 - 1) < 0.08


# --- promises ---


def few(net: nn.Module, **how: Any) -> PosteriorSamples:
    how = {"samples": 3, "burn_in": 10, "keep_every": 2} | how
    return sample_posterior(net, GaussianPrior(net), GaussianLikelihood(NOISE), X, Y, **how)


def test_a_seed_repeats_the_run_and_leaves_the_module_alone() -> None:
    net = scaled_mlp((2, 4, 1), dtype=torch.float64)
    before = [p.clone() for p in net.parameters()]
    first, second, other = few(net, seed=3), few(net, seed=3), few(net, seed=4)
    assert torch.equal(flat(first), flat(second))
    assert not torch.equal(flat(first), flat(other))
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(net.parameters(), before, strict=True))
    assert flat(few(net, batch_size=5)).shape == (4, 3, 17)
    classes = (X[:, 0] > 0).long()
    net = scaled_mlp((2, 4, 3), dtype=torch.float64)
    posterior = HMC().sample(net, GaussianPrior(net), CategoricalLikelihood(), X, classes, samples=2, warmup=2)
    assert posterior.predict(X).sum(1).allclose(torch.ones(12, dtype=torch.float64))


def test_chains_start_from_the_prior_or_where_they_are_told() -> None:
    net = linear()
    target = Target("test", net, GaussianPrior(net, 50.0), GaussianLikelihood(NOISE), X, Y)
    assert target.start(500, torch.Generator().manual_seed(0), None).std() > 40
    initial = GaussianPrior(net).sample(4)
    posterior = few(net, initial=initial, samples=1, burn_in=0, keep_every=1, lr=1e-7)
    assert (posterior.params["weight"][:, 0] - initial["weight"]).abs().max() < 1e-4


def test_ctrl_c_keeps_the_samples_so_far() -> None:
    net, calls = linear(), []

    class Interrupting(GaussianLikelihood):
        def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 15:
                os.kill(os.getpid(), signal.SIGINT)
            return super().log_prob(outputs, y)

    posterior = sample_posterior(
        net, GaussianPrior(net), Interrupting(NOISE), X, Y, samples=10, burn_in=5, keep_every=2
    )
    assert not posterior.complete
    assert posterior.params["weight"].shape[1] == 5
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        sample_posterior(net, GaussianPrior(net), Interrupting(NOISE), X, Y, burn_in=50)


def test_the_optimizer_samples_any_module_and_resumes() -> None:
    """Its steps are the op's; a state dict continues with the same bits."""

    def build() -> tuple[nn.Module, AdaptiveSGHMC]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        return net, AdaptiveSGHMC(net.parameters(), num_burn_in_steps=3, scale_grad=12.0, seed=7)

    def steps(net: nn.Module, sampler: AdaptiveSGHMC, count: int) -> None:
        for _ in range(count):
            sampler.zero_grad()
            (net(X) - Y).square().mean().backward()
            sampler.step()

    net, sampler = build()
    steps(net, sampler, 2)
    saved = {"net": {k: v.clone() for k, v in net.state_dict().items()}, "sampler": sampler.state_dict()}
    copy, resumed = build()
    copy.load_state_dict(saved["net"])
    resumed.load_state_dict(torch.load(_buffer(saved["sampler"]), weights_only=True))
    for pair in ((net, sampler), (copy, resumed)):
        steps(*pair, 4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), copy.parameters(), strict=True))
    frozen = sampler.state[next(net.parameters())]["v"].clone()
    steps(net, sampler, 1)
    assert torch.equal(frozen, sampler.state[next(net.parameters())]["v"])  # nothing adapts after the burn-in


def _buffer(value: Any) -> Any:
    import io

    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


# --- bad input ---

NAN = X.clone()
NAN[3, 1] = math.nan


def _sample(**change: Any) -> None:
    net = change.pop("model", None) or linear()
    given = {"prior": GaussianPrior(net), "likelihood": GaussianLikelihood(NOISE), "X": X, "y": Y} | change
    sample_posterior(net, given.pop("prior"), given.pop("likelihood"), given.pop("X"), given.pop("y"),
                     **({"samples": 1, "burn_in": 1, "keep_every": 1} | given))  # fmt: skip


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prior": GaussianPrior(nn.Linear(3, 1))}, ValueError, "argument 'prior': expected a prior of the model's"),
    ({"prior": None}, TypeError, "argument 'prior': expected a bnn.Prior, got NoneType None"),
    ({"X": X[:0], "y": Y[:0]}, ValueError, "argument 'X': .* without data, sample from the prior"),
    ({"X": X.half()}, TypeError, "argument 'X': expected dtype float32 or float64"),
    ({"X": X.float()}, TypeError, "argument 'X': expected torch.float64, as the model"),
    ({"X": NAN}, ValueError, "argument 'X': expected finite numbers, got nan at \\[3, 1\\]"),
    ({"y": Y * math.inf}, ValueError, "argument 'y': expected finite numbers"),
    ({"y": Y[:, 0]}, ValueError, "argument 'y': expected shape \\(12, 1\\)"),
    ({"likelihood": CategoricalLikelihood()}, TypeError, "argument 'y': expected an integer tensor"),
    ({"model": linear().half(), "prior": None}, TypeError, "argument 'module.weight'"),
    ({"chains": 0}, ValueError, "argument 'chains'"),
    ({"batch_size": 13}, ValueError, "argument 'batch_size': expected 1 to 12"),
    ({"lr": -1.0}, ValueError, "argument 'lr'"),
    ({"lr": 1e3, "burn_in": 0, "samples": 200, "max_norm": None}, ValueError, "'lr': .* NaN or infinity"),
    ({"initial": {"weight": torch.ones(4, 1, 2).double()}}, ValueError, "argument 'initial': .* without 'bias'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _sample(**change)


def test_bad_options_of_the_samplers() -> None:
    w = nn.Parameter(torch.ones(2))
    for options, text in (({"lr": 0.0}, "lr"), ({"mdecay": 2.0}, "mdecay"), ({"num_burn_in_steps": -1}, "num_burn_in")):
        with pytest.raises(ValueError, match=f"argument '{text}"):
            AdaptiveSGHMC([w], **options)
    with pytest.raises(TypeError, match="argument 'params\\[0\\]'"):
        AdaptiveSGHMC([nn.Parameter(torch.ones(2).half())])
    with pytest.raises(ValueError, match="argument 'target_acceptance'"):
        HMC(target_acceptance=1.0)
    with pytest.raises(ValueError, match="argument 'step_size'"):
        HMC(0.0)


def test_hmc_of_a_density_is_hmc_of_a_network() -> None:
    """The same law, once as a network's posterior and once as a function of flat parameters."""
    target = Target("test", linear(), GaussianPrior(linear()), GaussianLikelihood(NOISE), X, Y)
    start = torch.zeros(3, 3, dtype=torch.float64)
    initial = target.params(start)
    sampler, count = HMC(0.1, 5), {"samples": 4, "warmup": 6, "keep_every": 2}
    found = sampler.sample(linear(), target.prior, target.likelihood, X, Y, chains=3, initial=initial, seed=7, **count)
    weights, generator = torch.cat([p.flatten(2) for p in found.params.values()], 2), torch.Generator().manual_seed(7)

    def log_density(w: Tensor) -> Tensor:
        residual = Y[:, 0] - w[:, :2] @ X.T - w[:, 2:]
        return -(residual.square().sum(1) / NOISE + w.square().sum(1)) / 2

    draws = sampler.sample_density(log_density, start, generator=generator, **count)
    torch.testing.assert_close(draws, weights, rtol=1e-9, atol=1e-9)
    assert not start.any()


def test_hmc_of_a_density_says_what_is_wrong() -> None:
    sample, start = HMC(0.1, 2).sample_density, torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"'log_density\(points\)': expected shape \(2,\)"):
        sample(lambda w: -w.square().sum(), start)
    with pytest.raises(
        ValueError, match="'start': expected starts of finite density, got an infinite energy in chain 1"
    ):
        sample(lambda w: -w.square().sum(1) - torch.tensor([0.0, math.inf]), start)
    with pytest.raises(ValueError, match=r"'start': expected where each chain starts, shape \(C, P\)"):
        sample(lambda w: -w.square().sum(1), start[0])
    with pytest.raises(TypeError, match="'start': expected dtype float32 or float64"):
        sample(lambda w: -w.square().sum(1), start.half())
