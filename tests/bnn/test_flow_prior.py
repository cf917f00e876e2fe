"""Planar flows against quadrature, Jacobians and histograms; the density of a flow prior is that of its samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from probkernels.bnn import FlowPrior, GaussianLikelihood, PlanarFlow, sample_posterior, scaled_mlp
from torch import Tensor, nn

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow_of(w: list[float], u: list[float], b: float) -> PlanarFlow:
    flow = PlanarFlow(len(w), like=torch.empty(0, dtype=F64))
    for p, value in ((flow.w, w), (flow.u, u), (flow.b, b)):
        p.data = torch.tensor(value, dtype=F64)
    return flow


def strong_prior(size: int, transforms: int = 3) -> FlowPrior:
    """A prior of one layer without a bias whose flows bend much."""
    prior = FlowPrior(nn.Linear(size, 1, bias=False).double(), transforms, std=0.8)
    generator = seeded(5)
    for p in prior.parameters():
        p.data = p.data + 0.7 * torch.randn(p.shape, generator=generator, dtype=F64)
    return prior


@pytest.mark.parametrize("u", [[-9.0, -4.0], [-30.0, -20.0], [0.0, 0.0], [0.4, 1.0], [40.0, 9.0]])
def test_the_inverse_undoes_the_step(u: list[float]) -> None:
    """Also where w.u is far below -1: then w.u_hat is next to -1; and far above 0, where Newton's method cycles."""
    flow = flow_of([1.5, 0.7], u, 0.3)
    z = 3 * torch.randn(2000, 2, generator=seeded(), dtype=F64)
    y, log_det = flow(z)
    back, again = flow.inverse(y)
    flat = 1e-4 if u[0] < -20 else 1e-9  # the slope at the steepest place is e^(w.u)
    torch.testing.assert_close(flow(back)[0], y, atol=1e-9, rtol=0)
    torch.testing.assert_close(back, z, atol=flat, rtol=0)
    if u[0] > -20:
        torch.testing.assert_close(again, log_det, atol=1e-6, rtol=0)


def test_the_determinant_is_that_of_the_jacobian() -> None:
    flow = PlanarFlow(4, seed=3, like=torch.empty(0, dtype=F64))
    z = torch.randn(5, 4, generator=seeded(), dtype=F64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: flow(v[None])[0][0]))(z)
    torch.testing.assert_close(flow(z)[1], jacobians.det().log())


def test_derivatives_of_the_inverse() -> None:
    flow = flow_of([0.8, -0.5], [-1.0, 0.6], 0.2)
    y = torch.randn(3, 2, generator=seeded(), dtype=F64, requires_grad=True)

    def inverse(y: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(nn.ModuleDict({"f": _Inverse(flow)})["f"], {"f.w": w, "f.u": u, "f.b": b}, y)

    inputs = (y, *(p.detach().clone().requires_grad_() for p in (flow.w, flow.u, flow.b)))
    assert torch.autograd.gradcheck(inverse, inputs)
    assert torch.autograd.gradgradcheck(inverse, inputs)


class _Inverse(nn.Module):
    def __init__(self, flow: PlanarFlow) -> None:
        super().__init__()
        self.f = flow

    def forward(self, y: Tensor) -> Any:
        return self.f.inverse(y)


def test_the_density_integrates_to_one() -> None:
    line = torch.linspace(-15, 15, 6001, dtype=F64)
    density = strong_prior(1).log_prob({"weight": line[:, None, None]}).exp()
    assert abs(torch.trapezoid(density, line) - 1) < 1e-4
    line = torch.linspace(-10, 10, 301, dtype=F64)
    points = torch.cartesian_prod(line, line)
    density = strong_prior(2).log_prob({"weight": points[:, None]}).exp().view(301, 301)
    assert abs(torch.trapezoid(torch.trapezoid(density, line), line) - 1) < 1e-3


def test_the_density_is_that_of_samples() -> None:
    """Shares of draws in bins of one dimension, and E[1 / p] over a box, which is the box's area."""
    prior = strong_prior(1)
    draws = prior.sample(100_000, seeded())["weight"].flatten().detach()
    edges = torch.linspace(-2, 2, 9, dtype=F64)
    for low, high in itertools.pairwise(edges):
        line = torch.linspace(float(low), float(high), 401, dtype=F64)
        expected = torch.trapezoid(prior.log_prob({"weight": line[:, None, None]}).exp(), line)
        share = ((draws >= low) & (draws < high)).double().mean()
        assert abs(share - expected.item()) < 4 * math.sqrt(expected.item() / 100_000) + 1e-4
    wide = strong_prior(5)
    params = wide.sample(50_000, seeded())
    inside = (params["weight"][:, 0].abs() < 0.7).all(1)
    weights = (-wide.log_prob(params)).exp() * inside
    assert abs(weights.mean() - 1.4**5) < 5 * weights.std() / math.sqrt(50_000)


def test_layers_are_independent_and_keep_their_names() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    module[2].bias.requires_grad_(False)
    prior = FlowPrior(module, transforms=2)
    assert prior.layers == {"0": ["0.weight", "0.bias"], "2": ["2.weight"]}
    params = prior.sample(4, seeded())
    assert {name: p.shape[1:] for name, p in params.items()} == prior.shapes
    first, second = (FlowPrior(module[k], transforms=2) for k in (0, 2))
    for own, flows, variance in ((first, prior.flows[0], 0), (second, prior.flows[1], 1)):
        own.flows[0].load_state_dict(flows.state_dict())
        own.log_variance[0].data = prior.log_variance[variance].data
    parts = first.log_prob({"weight": params["0.weight"], "bias": params["0.bias"]})
    torch.testing.assert_close(prior.log_prob(params), parts + second.log_prob({"weight": params["2.weight"]}))


def test_a_posterior_with_a_flow_prior() -> None:
    net = scaled_mlp((1, 5, 1))
    x = torch.linspace(-1, 1, 12)[:, None]
    prior = FlowPrior(net, transforms=2, learnable=False)
    found = sample_posterior(net, prior, GaussianLikelihood(0.1), x, x.sin(), samples=2, burn_in=20, keep_every=2)
    assert found.functions(x).isfinite().all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: FlowPrior(nn.Linear(1, 1), 0), ValueError, "argument 'transforms'"),
        (lambda: FlowPrior(nn.Linear(1, 1), std=-1.0), ValueError, "argument 'std'"),
        (lambda: FlowPrior(nn.Linear(1, 1).half()), TypeError, "argument 'module.weight'"),
        (lambda: FlowPrior(nn.Tanh()), ValueError, "trainable parameters"),
        (lambda: PlanarFlow(0), ValueError, "argument 'size'"),
        (lambda: FlowPrior(nn.Linear(1, 1)).log_prob({"weight": torch.ones(1, 1, 1)}), ValueError, "without 'bias'"),
    ],
    ids=lambda v: None,
)
def test_bad_arguments(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
