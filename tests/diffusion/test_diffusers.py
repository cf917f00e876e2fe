"""The same samples as diffusers' schedulers. Skipped without diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import Denoiser, VPDiscrete, grid, sample
from torch import Tensor

from tests.diffusion.densities import Known, mixture

diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CHAIN = VPDiscrete.scaled_linear()


STEPS = 20


def theirs(
    scheduler: Any, model: Denoiser, x: Tensor, end: float, noise: Tensor | None, **how: Any
) -> tuple[Tensor, Tensor]:
    """Their sample, and the times of their steps.

    They keep their tables in single precision, whose error some methods of order 3 raise above 1e-5; they are given
    the same tables in double precision, so that what is compared is the formulas.
    """
    scheduler.set_timesteps(STEPS)
    times = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.tensor([end], dtype=torch.float64)])
    scheduler.alphas_cumprod = CHAIN.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000).square()
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = CHAIN.rho(times)
    for n, t in enumerate(scheduler.timesteps):
        if noise is not None:
            how["variance_noise"] = noise[n]
        output = model.net(x, ((t.double() + 1) / 1000).expand(len(x)))
        x = scheduler.step(output, t, x, **how).prev_sample
    return x, times


def agree(
    scheduler: Any, solver: str, pred: str = "eps", end: float = 0.0, draws: bool = False, given: Any = None, **how: Any
) -> None:
    """Both samples are the same; ``given`` to their steps, ``how`` to our solver."""
    net = mixture(CHAIN).net if pred == "eps" else Known(mixture(CHAIN), pred)
    model = Denoiser(net, CHAIN, pred=pred, time=lambda t: t)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(STEPS, 5, 3).double() if draws else None
    expected, times = theirs(scheduler, model, x, end, noise, **(given or {}))
    got = sample(model, x, solver=solver, times=times, noise=noise, **how)
    assert (got - expected).abs().max() < 1e-6


@pytest.mark.parametrize(("pred", "name"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_ddim(pred: str, name: str) -> None:
    agree(diffusers.DDIMScheduler(**BETAS, prediction_type=name, clip_sample=False), "ddim", pred)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_grids(spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing=spacing)
    for steps in (20, 30):
        scheduler.set_timesteps(steps)
        index = (grid(CHAIN, steps, spacing)[:-1] * 1000 - 1).round().long()
        assert torch.equal(index, scheduler.timesteps)


@pytest.mark.parametrize(("order", "solver"), [(1, "dpmpp_1"), (2, "dpmpp_2m"), (3, "dpmpp_3m")])
def test_dpm_solver_in_the_data(order: int, solver: str) -> None:
    agree(diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=order), solver)


@pytest.mark.parametrize(("order", "solver"), [(1, "dpm1"), (2, "dpm2m"), (3, "dpm3m")])
def test_dpm_solver_in_the_noise(order: int, solver: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, solver_order=order, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
    )
    agree(scheduler, solver, end=1e-3)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc(variant: str, order: int) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(
        **BETAS, solver_order=order, solver_type=variant, final_sigmas_type="sigma_min", lower_order_final=False
    )
    agree(scheduler, "unipc", end=1e-3, order=order, variant=variant)


def test_deis() -> None:
    """Theirs extrapolates in log rho, ours in t: the same only at order 1."""
    agree(diffusers.DEISMultistepScheduler(**BETAS, solver_order=1, lower_order_final=False), "ab1", end=1e-3)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    agree(scheduler, "ddim", draws=True, given={"eta": eta}, eta=eta)


@pytest.mark.parametrize(("order", "solver"), [(1, "dpmpp_1_sde"), (2, "dpmpp_2m_sde")])
def test_dpm_solver_with_noise(order: int, solver: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=order, algorithm_type="sde-dpmsolver++")
    agree(scheduler, solver, draws=True)
