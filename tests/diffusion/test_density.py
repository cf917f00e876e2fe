"""Likelihoods by the flow: densities in closed form, both traces, orders, processes, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.diffusion import EDM, VE, VP, Denoiser, FlowMatching, Process, VPDiscrete, grid, log_prob
from torch import Tensor, nn

from tests.diffusion.densities import gaussian, mixture
from tests.diffusion.test_gradients import DIMS, denoiser


class Correlated(nn.Module):
    """The exact noise of N(0, C), whose Jacobian is no diagonal."""

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        self.covariance = covariance

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, s = VP().alpha(t[0]), VP().sigma(t[0])
        noised = a**2 * self.covariance + s**2 * torch.eye(len(self.covariance)).double()
        return s * torch.linalg.solve(noised, x.T).T


def correlated(dims: int = 4) -> tuple[Denoiser, torch.distributions.Distribution]:
    """And its density at t = 1e-3."""
    root = torch.randn(dims, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = root @ root.T / dims + 0.1 * torch.eye(dims).double()
    a, s = VP().alpha(1e-3), VP().sigma(1e-3)
    law = torch.distributions.MultivariateNormal(
        torch.zeros(dims).double(), a**2 * covariance + s**2 * torch.eye(dims).double()
    )
    return Denoiser(Correlated(covariance), VP()), law


@pytest.mark.parametrize(
    ("process", "t_max"),
    [(VP(), 1.0), (VE(t_min=0.1), 1.0), (EDM(), 80.0), (FlowMatching(t_min=0.01), 0.999), (VPDiscrete.linear(), 1.0)],
    ids=["VP", "VE", "EDM", "flow", "chain"],
)  # fmt: skip
def test_densities_of_a_mixture(process: Process, t_max: float) -> None:
    """Of rows of two independent numbers, at the end of the flow. The prior that it starts from is not quite true."""
    model = mixture(process)
    low = process.t_min or 1e-3
    x0 = torch.linspace(-1.5, 1.5, 14, dtype=torch.float64).view(7, 2)
    got = log_prob(model, x0, solver="rk4", times=grid(process, 60, "lambda", t_min=low, t_max=t_max))
    expected = model.net.log_prob(x0, low).sum(1)
    start = 2 * (process.alpha(t_max) / process.sigma(t_max))  # by this the prior is off, in deviations
    assert got.shape == (7,) and got.dtype == torch.float64
    assert (got - expected).abs().max() < 2e-3 + 6 * float(start)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)])
def test_orders(solver: str, order: int) -> None:
    model, law = correlated()
    x0 = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    runs = [log_prob(model, x0, solver=solver, steps=n) for n in (40, 80, 160)]
    fine = log_prob(model, x0, solver="rk4", steps=400)
    errors = [float((r - fine).norm()) for r in runs]
    assert errors[1] / errors[2] > 0.8 * 2**order
    assert torch.allclose(fine, law.log_prob(x0), atol=2e-4)  # of the prior: alpha at t = 1 is 0.007


def test_hutchinson_is_the_exact_trace_in_the_mean() -> None:
    model = correlated()[0]
    x0 = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    many = x0.repeat_interleave(2000, 0)
    how = {"solver": "heun", "times": grid(VP(t_min=1e-3), 20, "lambda")}
    exact = log_prob(model, x0, **how)
    drawn = log_prob(model, many, trace="hutchinson", generator=torch.Generator().manual_seed(2), **how).view(2, -1)
    deviation = drawn.std(1)
    assert (deviation > 0.05).all()
    assert ((drawn.mean(1) - exact).abs() < 4 * deviation / 2000**0.5).all()
    more = log_prob(model, many, trace="hutchinson", probes=4, generator=torch.Generator().manual_seed(2), **how)
    assert torch.allclose(more.view(2, -1).std(1), deviation / 2, rtol=0.1)
    again = log_prob(model, many, trace="hutchinson", generator=torch.Generator().manual_seed(2), **how)
    assert torch.equal(again, drawn.flatten())


def test_one_sign_is_exact_where_the_jacobian_is_diagonal() -> None:
    x0 = torch.randn(3, 2, 2, dtype=torch.float64)
    exact, drawn = (log_prob(mixture(), x0, steps=8, trace=trace) for trace in ("exact", "hutchinson"))
    assert torch.allclose(exact, drawn, rtol=1e-12)


def test_conditions_guidance_and_dtypes() -> None:
    model, x0, cond = denoiser(), torch.randn(2, DIMS).double(), torch.randn(2, 4).double()
    plain = log_prob(model, x0, cond, steps=5)
    guided = log_prob(model, x0, cond, steps=5, uncond=torch.zeros(1, 4).double(), guidance=1.0)
    assert torch.allclose(plain, guided, rtol=1e-12) and plain.requires_grad
    single = log_prob(denoiser().float(), x0.float(), cond.float(), steps=5)
    assert single.dtype == torch.float64 and torch.allclose(single, plain, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": nn.Identity()}, TypeError, "'model': expected a Denoiser"),
        ({"model": denoiser(norm=True)}, ValueError, "batch normalization in eval mode"),
        ({"x0": torch.zeros(2, DIMS).long()}, TypeError, "'x0'"),
        ({"trace": "slow"}, ValueError, "'trace': expected one of"),
        ({"probes": 0}, ValueError, "'probes'"),
        ({"solver": "alf"}, ValueError, "'solver'"),
        (
            {"solver": "hein"},
            ValueError,
            r"log_prob: argument 'solver': expected one of 'ddim', .*, got 'hein'. Hint: did you mean 'heun'\?",
        ),
        (
            {"x0": [[1.0, 2.0]] * 9000},
            TypeError,
            r"^log_prob: argument 'x0': expected a floating-point tensor, got list of length 9000.{0,200}$",
        ),
        ({"steps": None}, ValueError, "'steps'"),
        ({"model": gaussian(VPDiscrete.linear()), "grid": "t"}, ValueError, "'times': expected some noise"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"model": denoiser(), "x0": torch.randn(2, DIMS).double(), "steps": 3, **change}
    with pytest.raises(error, match=text):
        log_prob(given.pop("model"), given.pop("x0"), **given)


class Opaque(nn.Module):
    """Depends on x unseen by autograd."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = nn.Linear(2, 2), call

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.call(self.layer, x)


def under(mode: Any, layer: nn.Module, x: Tensor) -> Tensor:
    with mode():
        return layer(x)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: under(torch.no_grad, layer, x),
        lambda layer, x: under(torch.inference_mode, layer, x),
        lambda layer, x: layer(x.detach()),
        lambda layer, x: torch.from_numpy(layer(x).detach().numpy()),
    ],
)
def test_nets_whose_derivative_is_hidden(call: Any, trace: str, enabled: bool) -> None:
    """Their trace would count as 0, also where parameters have a gradient."""
    with (
        torch.set_grad_enabled(enabled),
        pytest.raises(ValueError, match=r"log_prob: argument 'model': expected a net whose output is differentiable"),
    ):
        log_prob(Denoiser(Opaque(call), VP(), pred="v"), torch.ones(3, 2), steps=2, trace=trace)


def test_nets_that_are_constant() -> None:
    """All data at 0: noise (x - 0) / sigma, and N(0, sigma^2) at the end of the data."""
    model = Denoiser(Opaque(lambda layer, x: torch.zeros_like(x)), VP(), pred="x0")
    x0 = 0.1 * torch.ones(1, 2, dtype=torch.float64)
    times = grid(VP(), 200, "lambda", t_min=0.1)
    truth = torch.distributions.Normal(0.0, VP().sigma(0.1)).log_prob(x0).sum(1)
    assert torch.allclose(log_prob(model, x0, solver="rk4", times=times), truth, rtol=1e-4)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_samples_of_one_number(trace: str) -> None:
    model, x0 = Denoiser(Opaque(lambda layer, x: x.sin()), VP(), pred="v"), torch.linspace(-1, 1, 4).double()
    assert torch.equal(log_prob(model, x0, steps=3, trace=trace), log_prob(model, x0[:, None], steps=3, trace=trace))
