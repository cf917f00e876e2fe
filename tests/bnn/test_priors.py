"""Priors against closed forms: densities, moments, gradients, the limit of infinite width, the Gibbs step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.bnn import (
    CategoricalLikelihood,
    GaussianLikelihood,
    GaussianPrior,
    HierarchicalPrior,
    functional_call,
    scaled_mlp,
)
from probkernels.bnn._functional import flatten, stack, unflatten
from torch import Tensor, nn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(*sizes: int, dtype: torch.dtype = torch.float64, **how: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return scaled_mlp(sizes, dtype=dtype, **how)


# --- networks with stacked parameters ---


def test_functional_call_equals_a_loop() -> None:
    modules = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(5)]
    params = {
        k: torch.stack([dict(m.named_parameters())[k] for m in modules]) for k, _ in modules[0].named_parameters()
    }
    x = torch.randn(6, 3)
    expected = torch.stack([m(x) for m in modules])
    torch.testing.assert_close(functional_call(modules[0], params, x), expected)


def test_frozen_parameters_stay_and_tied_ones_move_together() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    params = stack(module, 3)
    assert list(params) == ["0.weight", "1.bias"]
    params["0.weight"] = params["0.weight"] * torch.arange(3.0)[:, None, None]
    x = torch.randn(4, 2)
    w = module[0].weight
    for k, out in enumerate(functional_call(module, params, x)):
        torch.testing.assert_close(out, (x @ (k * w).T + module[0].bias) @ (k * w).T + module[1].bias)


def test_flat_parameters_and_back() -> None:
    shapes = {"a": torch.Size([2, 3]), "b": torch.Size([]), "c": torch.Size([4])}
    params = {name: torch.randn(5, *shape) for name, shape in shapes.items()}
    flat = flatten(params)
    assert flat.shape == (5, 11)
    assert all(torch.equal(part, params[name]) for name, part in unflatten(flat, shapes).items())


def test_the_network_divides_by_the_root_of_its_width() -> None:
    module = net(3, 8, 2)
    w, b, v, c = (p.detach() for p in module.parameters())
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = torch.tanh(x @ w.T / math.sqrt(3) + b) @ v.T / math.sqrt(8) + c
    torch.testing.assert_close(module(x), expected)


# --- priors ---


def test_gaussian_density_equals_torch() -> None:
    module = net(2, 3, 1)
    stds = {name: 0.5 + k for k, (name, _) in enumerate(module.named_parameters())}
    prior = GaussianPrior(module, stds)
    params = prior.sample(4, seeded())
    expected = sum(
        torch.distributions.Normal(0, stds[name]).log_prob(p).reshape(4, -1).sum(1) for name, p in params.items()
    )
    torch.testing.assert_close(prior.log_prob(params), expected)
    each = {name: torch.full(shape, stds[name]) for name, shape in prior.shapes.items()}
    torch.testing.assert_close(GaussianPrior(module, each, per="parameter").log_prob(params), expected)


def test_hierarchical_density_equals_a_quadrature() -> None:
    module = nn.Linear(2, 1, bias=False).double()
    prior = HierarchicalPrior(module, shape=2.5, rate=1.7)
    params = {"weight": torch.tensor([[[0.3, -1.2]], [[2.0, 1.0]]], dtype=torch.float64)}
    precision = torch.linspace(1e-4, 40, 400_001, dtype=torch.float64)
    gamma = torch.distributions.Gamma(*(torch.tensor(v, dtype=torch.float64) for v in (2.5, 1.7)))
    for k in range(2):
        squares = params["weight"][k].square().sum()
        joint = gamma.log_prob(precision) + precision.log() - precision * squares / 2 - math.log(2 * math.pi)
        expected = torch.trapezoid(joint.exp(), precision).log()
        torch.testing.assert_close(prior.log_prob(params)[k], expected, atol=1e-5, rtol=0)
    state = {"weight": torch.tensor([0.5, 4.0], dtype=torch.float64)}
    normal = torch.distributions.Normal(0, state["weight"].sqrt()[:, None, None])
    torch.testing.assert_close(prior.log_prob(params, state), normal.log_prob(params["weight"]).flatten(1).sum(1))


def test_every_function_has_a_variance_of_its_own() -> None:
    """Draws of one call that shared a variance would all have about the same spread."""
    prior = HierarchicalPrior(net(1, 200, 1), shape=2.0, rate=2.0)
    spread = prior.sample(400, seeded())["0.weight"].flatten(1).var(1)
    precision = 1 / spread
    assert abs(precision.mean() - 1) < 0.2
    assert abs(precision.var() - 0.5) < 0.25  # shape / rate^2


def test_gibbs_step_has_the_moments_of_a_gamma() -> None:
    prior = HierarchicalPrior(nn.Linear(3, 2, bias=False).double(), shape=1.5, rate=0.8)
    w = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.3, -0.2]], dtype=torch.float64)
    variance = prior.resample({"weight": w.expand(200_000, 2, 3)}, seeded())["weight"]
    shape, rate = 1.5 + 3, 0.8 + float(w.square().sum()) / 2
    precision = 1 / variance
    error = math.sqrt(shape) / rate / math.sqrt(len(precision))
    assert abs(precision.mean() - shape / rate) < 4 * error
    assert abs(precision.var() / (shape / rate**2) - 1) < 0.03


def test_gibbs_and_parameters_keep_the_prior() -> None:
    """Parameters given variances, variances given parameters: a chain whose stationary law is the prior."""
    prior = HierarchicalPrior(nn.Linear(2, 1, bias=False).double(), shape=3.0, rate=3.0)
    params, generator = prior.sample(20_000, seeded()), seeded(1)
    for _ in range(3):
        std = prior.resample(params, generator)["weight"].sqrt()[:, None, None]
        params = {"weight": std * torch.randn(20_000, 1, 2, generator=generator, dtype=torch.float64)}
    fresh = prior.sample(20_000, seeded(2))["weight"].abs().flatten().sort().values
    kept = params["weight"].abs().flatten().sort().values
    assert abs(kept.mean() / fresh.mean() - 1) < 0.03
    assert abs(kept[36_000] / fresh[36_000] - 1) < 0.03


def test_samples_are_differentiable_in_the_prior() -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    for prior in (
        GaussianPrior(net(1, 4, 1), 1.3, learnable=True),
        GaussianPrior(net(1, 4, 1), 1.3, per="parameter", learnable=True),
        HierarchicalPrior(net(1, 4, 1), 3.0, 3.0, learnable=True),
    ):
        weights = list(prior.parameters())
        (grad,) = torch.autograd.grad(prior.sample_functions(x, 6, seeded()).square().mean(), weights[:1])
        entry = weights[0].data.view(-1)[:1]
        values = []
        for change in (1e-5, -2e-5):
            entry += change
            values.append(prior.sample_functions(x, 6, seeded()).square().mean().item())
        numeric = (values[0] - values[1]) / 2e-5
        if isinstance(prior, GaussianPrior):
            assert abs(grad.view(-1)[0].item() - numeric) < 1e-6 * max(1, abs(numeric))
        else:  # the gradient of a gamma draw in its shape is implicit: rejection makes draws jump
            assert grad.isfinite().all()
    assert not any(p.requires_grad for p in GaussianPrior(net(1, 4, 1)).parameters())


def test_wide_networks_have_the_covariance_of_the_arc_sine_kernel() -> None:
    """erf, one hidden layer: sw2^2 E[erf(u) erf(v)] + sb2^2, with the closed form of the expectation."""
    stds = {"0.weight": 1.5, "0.bias": 0.7, "2.weight": 1.2, "2.bias": 0.4}
    prior = GaussianPrior(net(2, 400, 1, activation="erf"), stds)
    x = torch.tensor([[0.3, -1.0], [1.5, 0.5], [-0.2, 0.1]], dtype=torch.float64)
    f = prior.sample_functions(x, 4000, seeded())[..., 0]
    inner = 1.5**2 * x @ x.T / 2 + 0.7**2
    size = (1 + 2 * inner.diagonal()).sqrt()
    expected = 1.2**2 * 2 / math.pi * torch.asin(2 * inner / (size[:, None] * size)) + 0.4**2
    assert (f.T @ f / len(f) - expected).abs().max() < 5 * math.sqrt(2 / 4000) * expected.max()


# --- likelihoods ---


def test_likelihoods_equal_torch() -> None:
    f, y = torch.randn(3, 5, 2), torch.randn(5, 2)
    expected = torch.distributions.Normal(f, math.sqrt(0.3)).log_prob(y).sum(-1)
    torch.testing.assert_close(GaussianLikelihood(0.3).log_prob(f, y), expected)
    mean, variance = GaussianLikelihood(0.3).predict(f)
    torch.testing.assert_close(variance, f.var(0, correction=0) + 0.3)
    torch.testing.assert_close(mean, f.mean(0))
    labels = torch.tensor([0, 1, 1, 0, 1])
    expected = -torch.stack([nn.functional.cross_entropy(each, labels, reduction="none") for each in f])
    torch.testing.assert_close(CategoricalLikelihood().log_prob(f, labels), expected)


# --- bad input ---


def _without(name: str) -> dict[str, Tensor]:
    params = GaussianPrior(net(1, 2, 1)).sample(2)
    del params[name]
    return params


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: GaussianPrior(net(1, 2, 1), {"0.weight": 1.0}), ValueError, "argument 'std': .* no entry for '0.bias'"),
    (lambda: GaussianPrior(nn.Linear(1, 1), {"weight": 1, "bias": 1, "bais": 1}), ValueError, "did you mean 'bias'"),
    (lambda: GaussianPrior(net(1, 2, 1), -1.0), ValueError, "argument 'std': expected positive finite numbers, got -1"),
    (lambda: GaussianPrior(net(1, 2, 1), float("nan")), ValueError, "argument 'std': expected positive"),
    (lambda: GaussianPrior(net(1, 2, 1), per="layers"), ValueError, "did you mean 'layer'"),
    (lambda: GaussianPrior(nn.Tanh()), ValueError, "argument 'module': expected a module with trainable parameters"),
    (lambda: GaussianPrior(net(1, 2, 1).half()), TypeError, "argument 'module.0.weight': expected dtype float32 or"),
    (lambda: GaussianPrior("net"), TypeError, "argument 'module': expected an nn.Module"),
    (lambda: HierarchicalPrior(net(1, 2, 1), rate=0.0), ValueError, "argument 'rate': expected positive"),
    (lambda: GaussianPrior(net(1, 2, 1)).sample(0), ValueError, "argument 'n'"),
    (lambda: GaussianPrior(net(1, 2, 1)).log_prob(_without("0.bias")), ValueError, "without '0.bias'"),
    (lambda: scaled_mlp((1, 2), "tahn"), ValueError, "did you mean 'tanh'"),
    (lambda: scaled_mlp((1,)), ValueError, "argument 'sizes'"),
    (lambda: GaussianLikelihood(0.0), ValueError, "argument 'noise'"),
    (lambda: functional_call(nn.Linear(1, 1), {"weight": torch.ones(1, 1)}, torch.ones(1)), ValueError, "without"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
