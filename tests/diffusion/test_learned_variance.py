"""Ancestral sampling with learned variances: its two ends, the exact law of Gaussian data, the loss, guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.diffusion import (
    VP,
    Denoiser,
    Process,
    VPDiscrete,
    grid,
    hybrid_loss,
    learned_ancestral,
    sample,
    vlb_term,
)
from torch import Tensor, nn

from tests.diffusion.densities import gaussian

MEAN, SPREAD = 0.5, 0.5  # of the data


class Halves(nn.Module):
    """The exact noise of N(0.5, 0.5^2), and a variance part that is a function of t."""

    def __init__(self, process: Process, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.exact, self.part = gaussian(process).net, part

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.exact(x, t), self.part(t)[:, None].expand_as(x)], 1)


def denoiser(process: Process, part: Callable[[Tensor], Tensor]) -> Denoiser:
    return Denoiser(Halves(process, part), process, time=lambda t: t, variance=True)


def best_share(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """Where the variance of x_s given x_t lies, for data N(0.5, 0.5^2)."""
    a, a1, v, v1 = process.alpha(t), process.alpha(s), process.sigma(t).square(), process.sigma(s).square()
    wide = v - (a / a1).square() * v1
    narrow = wide * v1 / v
    of_data = SPREAD**2 * v / (v + a.square() * SPREAD**2)  # of x_0 given x_t
    exact = narrow + (a1 * wide / (a1.square() * v) * a1.square()).square() * of_data
    return 2 * (exact.log() - narrow.log()) / (wide.log() - narrow.log()) - 1


@pytest.mark.parametrize(("value", "solver"), [(-1.0, "ancestral"), (1.0, "ancestral_beta")])
@pytest.mark.parametrize("process", [VP(), VPDiscrete.cosine(40)], ids=["vp", "chain"])
def test_the_ends_are_the_fixed_variances(process: Process, value: float, solver: str) -> None:
    """On times that end without noise, and respaced ones of a chain."""
    times = grid(process, 8, t_min=0.0, t_max=0.98)
    x_T, noise = torch.randn(6, 3, dtype=torch.float64), torch.randn(8, 6, 3, dtype=torch.float64)
    got = learned_ancestral(denoiser(process, lambda t: torch.full_like(t, value)), x_T, times, noise=noise)
    expected = sample(gaussian(process), x_T, solver=solver, times=times, noise=noise)
    assert torch.allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 5])
def test_few_steps_have_the_exact_law_with_the_best_variances(steps: int) -> None:
    """Every x_s given x_t is Gaussian: with its true mean and variance even two steps draw from the true law."""
    process, many = VP(), 40_000
    times = grid(process, steps, t_min=0.05)
    shares = dict(zip(times[:-1].tolist(), best_share(process, times[:-1], times[1:]).tolist(), strict=True))
    model = denoiser(process, lambda t: torch.tensor([shares[v] for v in t.tolist()], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(many, 1, dtype=torch.float64, generator=generator)
    end = process.alpha(0.05), process.sigma(0.05)
    deviation = ((end[0] * SPREAD).square() + end[1].square()).sqrt()
    x = learned_ancestral(model, x_T, times, generator=generator)
    assert abs(x.mean() - end[0] * MEAN) < 5 * deviation / many**0.5 + 2 * process.alpha(1.0)
    assert abs(x.std() / deviation - 1) < 5 / (2 * many) ** 0.5
    fixed = sample(gaussian(process), x_T, solver="ancestral", times=times, generator=generator)
    assert fixed.std() < 0.97 * deviation


def test_the_hybrid_loss_is_least_at_the_best_variances() -> None:
    """So what it trains is what the sampler uses."""
    chain, many = VPDiscrete.linear(20, 1e-3, 0.3), 100_000
    i = 12
    times = torch.tensor([i + 1, i], dtype=torch.float64) / 20
    best = float(best_share(chain, times[0], times[1]))
    assert -0.9 < best < 0.9
    x0 = MEAN + SPREAD * torch.randn(many, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = []
    for value in (best - 0.3, best, best + 0.3):
        share = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        model = denoiser(chain, lambda t, share=share: share.expand_as(t))
        generator = torch.Generator().manual_seed(1)
        terms = vlb_term(model, x0, torch.full((many,), i), variance="learned", generator=generator)
        slopes.append(float(torch.autograd.grad(terms.mean(), share)[0]))
    assert slopes[0] < 0 < slopes[2]
    assert abs(slopes[1]) < 0.05 * min(-slopes[0], slopes[2])
    loss = hybrid_loss(model, x0[:100], generator=torch.Generator().manual_seed(2))
    assert torch.autograd.grad(loss, share)[0].isfinite()


class Labeled(nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.cat([x * cond[:, None], (0.1 * cond[:, None]).expand_as(x)], 1)


def test_guidance_is_of_the_output_and_the_variance_that_of_the_condition() -> None:
    model = Denoiser(Labeled(), VP(), variance=True)
    x, c, u = torch.randn(3, 2), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(1)
    output, part = model.both(x, 0.5, c, uncond=u, guidance=2.0)
    assert torch.allclose(output, 2 * c[:, None] * x)
    assert torch.allclose(part, (0.1 * c[:, None]).expand_as(x))
    x = learned_ancestral(model, x, grid(VP(), 3), cond=c, uncond=u, guidance=2.0)
    assert x.isfinite().all()


def test_gradients_and_repetition() -> None:
    process = VP()
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    model, times = denoiser(process, lambda t: scale * t), grid(process, 4)
    x_T = torch.randn(3, 2, dtype=torch.float64)

    def draw(scale_: Tensor, x: Tensor) -> Tensor:
        model.net.part = lambda t: scale_ * t
        return learned_ancestral(model, x, times, generator=torch.Generator().manual_seed(3), grad="autograd")

    assert torch.autograd.gradcheck(draw, (scale, x_T.clone().requires_grad_()))
    assert torch.equal(draw(scale, x_T), draw(scale, x_T))
    seen: list[int] = []
    x = learned_ancestral(model, x_T, times, callback=lambda n, _: seen.append(n))
    assert seen == [0, 1, 2, 3] and not x.requires_grad


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": gaussian()}, ValueError, "'model': expected a denoiser with variance=True"),
        ({"model": nn.Identity()}, TypeError, "'model': expected a Denoiser"),
        ({"times": torch.tensor([0.1, 0.5]).double()}, ValueError, "'times': expected times that fall strictly"),
        ({"noise": torch.randn(2, 3, 2)}, ValueError, "'noise': expected 4 rows"),
        ({"grad": "exact"}, ValueError, "'grad'"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"model": denoiser(VP(), torch.zeros_like), "x_T": torch.randn(3, 2), "times": grid(VP(), 4), **change}
    with pytest.raises(error, match=text):
        learned_ancestral(**given)
