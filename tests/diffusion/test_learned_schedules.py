"""Gradients to learned schedules, functions of time and coefficients: against finite differences in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from probkernels.diffusion import (
    VP,
    Denoiser,
    Process,
    Table,
    VPDiscrete,
    dsm_loss,
    fit,
    grid,
    learned_ancestral,
    sample,
    table,
)
from probkernels.diffusion.denoiser import PREDICTIONS
from probkernels.diffusion.process import double
from probkernels.diffusion.solvers import SOLVERS
from torch import Tensor, nn

from tests.diffusion.test_gradients import DIMS, Net, leaf

STEP = 1e-5
ENDS = torch.tensor([3.0, -3.0], dtype=torch.float64)


class Learned(Process):
    """Variance-preserving; the log signal-to-noise ratio falls linearly between two ends (2,)."""

    t_min, t_max = 1e-3, 1.0

    def __init__(self, ends: Tensor) -> None:
        self.ends = ends

    def lam(self, t: Tensor | float) -> Tensor:
        return self.ends[0] + double(t) * (self.ends[1] - self.ends[0])

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return nn.functional.logsigmoid(2 * self.lam(t)) / 2

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sigmoid(-2 * self.lam(t)).sqrt()

    def t_of_rho(self, rho: Tensor | float) -> Tensor:
        return (-double(rho).log() - self.ends[0]) / (self.ends[1] - self.ends[0])

    def drift(self, t: Tensor | float) -> Tensor:
        return (self.ends[1] - self.ends[0]) * torch.sigmoid(-2 * self.lam(t))

    def diffusion2(self, t: Tensor | float) -> Tensor:
        return -2 * self.drift(t)


class Scaled(nn.Module):
    """A learned function of time."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, t: Tensor) -> Tensor:
        return self.w * t


def network(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    return Net(**options).double().requires_grad_(False)


def slope(value: Any, at: Tensor) -> Tensor:
    """Of a scalar function by a tensor (n,), by central differences."""
    steps = torch.eye(len(at), dtype=at.dtype) * STEP
    return torch.stack([(value(at + step) - value(at - step)) / (2 * STEP) for step in steps]).detach()


@pytest.mark.parametrize("pred", PREDICTIONS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "ancestral"])
def test_every_prediction(pred: str, solver: str) -> None:
    check_process(pred, solver, grid="lambda")


@pytest.mark.parametrize("solver", sorted({*SOLVERS} - {"ddim", "dpmpp_2m", "heun", "ancestral"}))
def test_every_solver(solver: str) -> None:
    check_process("v", solver, grid="t", clip=0.9)


def check_process(pred: str, solver: str, grid: str, clip: float | None = None) -> None:
    x, net = leaf(2, DIMS).detach(), network()

    def value(ends: Tensor, mode: str | None) -> Tensor:
        model = Denoiser(net, Learned(ends), pred=pred, clip=clip)
        how = {"solver": solver, "steps": 4, "grid": grid, "generator": torch.Generator().manual_seed(0)}
        return sample(model, x, grad=mode, **how).square().sum()

    expected = slope(lambda ends: value(ends, None), ENDS)
    assert expected.abs().min() > 1e-6
    for mode in ("autograd", "exact"):
        ends = ENDS.clone().requires_grad_()
        value(ends, mode).backward()
        assert torch.allclose(ends.grad, expected, rtol=1e-6), mode


@pytest.mark.parametrize("store", ["states", 10**9, "revolve=2"])
def test_exact_in_every_kind_of_memory(store: str | int) -> None:
    """The other way to the same gradient, with everything else that is learned."""
    found = []
    for mode, how in (("autograd", {}), ("exact", {"store": store})):
        ends, x = ENDS.clone().requires_grad_(), leaf(2, DIMS)
        net = network().requires_grad_()
        model = Denoiser(net, Learned(ends), pred="v", time=Scaled())
        loss = sample(model, x, solver="dpmpp_3m", steps=6, grad=mode, **how).square().sum()
        found.append(torch.autograd.grad(loss, [ends, x, model.time.w, *net.parameters()], allow_unused=True))
    for got, expected in zip(found[1], found[0], strict=True):
        assert (got is None) == (expected is None)
        assert got is None or torch.allclose(got, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("solver", "mode"), [("ddim", "autograd"), ("ddim", "exact"), ("alf", "reversible")])
def test_a_learned_function_of_time(solver: str, mode: str) -> None:
    model, x = Denoiser(network(), VP(), pred="v", time=Scaled()), leaf(2, DIMS).detach()

    def value(w: Tensor) -> Tensor:
        model.time.w.data.copy_(w.squeeze())
        return sample(model, x, solver=solver, steps=6).square().sum()

    expected = slope(value, torch.tensor([3.0], dtype=torch.float64))
    value(torch.tensor(3.0))
    sample(model, x, solver=solver, steps=6, grad=mode).square().sum().backward()
    assert torch.allclose(model.time.w.grad, expected.squeeze(), rtol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "ancestral"])
def test_learned_betas(solver: str) -> None:
    """Down to t = 0, where sigma is 0 whatever the betas, and its root has an infinite slope."""
    x, net, start = leaf(2, DIMS).detach(), network(), torch.linspace(0.02, 0.6, 6, dtype=torch.float64)

    def value(betas: Tensor, mode: str | None) -> Tensor:
        model, how = Denoiser(net, VPDiscrete(betas), pred="v"), {"generator": torch.Generator().manual_seed(0)}
        return sample(model, x, solver=solver, steps=4, grad=mode, **how).square().sum()

    expected = slope(lambda betas: value(betas, None), start)
    for mode in ("autograd", "exact"):
        betas = start.clone().requires_grad_()
        value(betas, mode).backward()
        assert torch.allclose(betas.grad, expected, rtol=1e-6, atol=1e-9), mode


def test_learned_betas_without_signal_at_the_end() -> None:
    x, net, start = leaf(2, DIMS).detach(), network(), torch.linspace(0.02, 0.6, 6, dtype=torch.float64)

    def value(betas: Tensor, mode: str | None) -> Tensor:
        model = Denoiser(net, VPDiscrete(betas).zero_terminal_snr(), pred="v")
        return sample(model, x, solver="dpmpp_2m", steps=6, grid="trailing", grad=mode).square().sum()

    expected = slope(lambda betas: value(betas, None), start)
    betas = start.clone().requires_grad_()
    value(betas, "exact").backward()
    assert torch.allclose(betas.grad, expected, rtol=1e-6, atol=1e-9)


def test_learned_variances_learn_the_schedule() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([torch.tanh(x + t[:, None]), torch.sin(x)], 1)

    x, draws = leaf(2, DIMS).detach(), leaf(4, 2, DIMS, seed=1).detach()

    def value(betas: Tensor, mode: str | None) -> Tensor:
        model = Denoiser(Wide(), VPDiscrete(betas), variance=True)
        times = grid(model.process, 4, "leading")
        return learned_ancestral(model, x, times, noise=draws, grad=mode).square().sum()

    start = torch.linspace(0.02, 0.6, 8, dtype=torch.float64)
    expected = slope(lambda betas: value(betas, None), start)
    betas = start.clone().requires_grad_()
    value(betas, "autograd").backward()
    assert torch.allclose(betas.grad, expected, rtol=1e-6, atol=1e-9)


def test_learned_schedule_in_training() -> None:
    x0, noise, t = leaf(4, DIMS).detach(), leaf(4, DIMS, seed=1).detach(), torch.linspace(0.1, 0.9, 4).double()

    def value(ends: Tensor) -> Tensor:
        return dsm_loss(Denoiser(network(), Learned(ends), pred="eps"), x0, weight="v", t=t, noise=noise)

    ends = ENDS.clone().requires_grad_()
    value(ends).backward()
    assert torch.allclose(ends.grad, slope(value, ENDS), rtol=1e-6)


def test_coefficients_that_are_zero_learn_too() -> None:
    """A coefficient at 0 changes nothing yet; its slope is that of any other."""
    model, x = Denoiser(network(), VP(), pred="v"), leaf(2, DIMS).detach()
    rows = table(VP(), grid(VP(), 4), "dpmpp_2m")

    def value(b: Tensor, mode: str | None) -> Tensor:
        made = Table(rows.t, rows.a, torch.cat([rows.b[:, :1], b[:, None]], 1), rows.d, rows.kind, rows.times)
        return sample(model, x, solver=made, grad=mode).square().sum()

    start = torch.zeros(4, dtype=torch.float64)
    expected = slope(lambda b: value(b, None), start)
    assert expected[0] == 0 and expected[1:].abs().min() > 1e-3  # the first step has no history
    for mode in ("autograd", "exact"):
        b = start.clone().requires_grad_()
        value(b, mode).backward()
        assert torch.allclose(b.grad, expected, rtol=1e-6), mode


def test_what_acts_at_late_times_alone_is_refused() -> None:
    """The first call does not depend on it, so only the backward pass can see it."""
    outside = leaf(DIMS)

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(DIMS, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * self.w if t[0] > 0.5 else x * self.w + outside

    model, x = Denoiser(Late(), VP(), pred="v"), leaf(2, DIMS)
    for solver, mode, how in (("ddim", "exact", {}), ("ddim", "exact", {"store": 10**9}), ("alf", "reversible", {}),
                              ("ddim", "exact", {"store": "revolve=2"}), ("ddim", "continuous", {})):  # fmt: skip
        loss = sample(model, x, solver=solver, steps=6, grad=mode, **how).sum()
        with pytest.raises(ValueError, match="require a gradient are its parameters, buffers or the condition"):
            loss.backward()
    sample(model, x, solver="ddim", steps=6, grad="autograd").sum().backward()
    assert outside.grad is not None


@pytest.mark.parametrize(("solver", "mode"), [("alf", "reversible"), ("ddim", "continuous")])
def test_modes_that_cannot_learn_a_schedule_say_so(solver: str, mode: str) -> None:
    model = Denoiser(network(), Learned(ENDS.clone().requires_grad_()), pred="v")
    with pytest.raises(ValueError, match=f"'times': expected times without a gradient, .*process.* '{mode}'"):
        sample(model, leaf(2, DIMS), solver=solver, steps=3, grad=mode)


def test_continuous_refuses_a_learned_function_of_time() -> None:
    model = Denoiser(network(), VP(), pred="v", time=Scaled())
    with pytest.raises(ValueError, match="'times': expected times without a gradient, such a process and 'time'"):
        sample(model, leaf(2, DIMS), solver="ddim", steps=3, grad="continuous")


# --- training ---


class Trained(nn.Module, Learned):
    """A process whose ends are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.Parameter(ENDS.clone())


def trainable(process: Process, **options: Any) -> Denoiser:
    torch.manual_seed(2)
    return Denoiser(Net().double(), process, pred="v", **options)


def test_fit_trains_averages_and_keeps_a_process_that_is_a_module(tmp_path: Path) -> None:
    data = torch.randn(40, DIMS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    how: dict[str, Any] = {"steps": 6, "batch_size": 8, "ema": 0.5, "progress": False}
    seen: list[Tensor] = []

    def loss(model: Denoiser, x: Tensor, cond: None, generator: torch.Generator) -> Tensor:
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(model.process.ends.detach().clone())
        return dsm_loss(model, x, generator=generator)

    stop = -1
    whole = fit(trainable(Trained()), data, loss=loss, **how)
    ends, average = whole.model.process.ends.detach(), ENDS.clone()
    for now in (*seen[1:], ends):
        average = (average + now) / 2
    assert (ends - ENDS).abs().min() > 1e-4
    assert torch.allclose(whole.average.process.ends, average, rtol=1e-12)
    seen, stop, file = [], 4, tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(trainable(Trained()), data, loss=loss, checkpoint=file, checkpoint_every=2, **how)
    stop = -1
    rest = fit(trainable(Trained()), data, loss=loss, checkpoint=file, **how)
    assert torch.equal(rest.model.process.ends, ends)
    assert torch.equal(rest.average.process.ends, whole.average.process.ends)


def test_fit_refuses_what_it_could_neither_average_nor_keep() -> None:
    """Leaves of a process, or of a function of time, that are no parameters of the model."""
    ends, factor = ENDS.clone().requires_grad_(), torch.ones((), requires_grad=True)
    betas = torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)
    late = torch.ones((), requires_grad=True)
    for model in (
        trainable(Learned(ends)),
        trainable(VPDiscrete(betas)),
        trainable(VPDiscrete(betas.sigmoid())),
        trainable(VP(), time=lambda t: factor * t),
        trainable(VP(), time=lambda t: late * t if bool((t > 0.9).any()) else t),
    ):
        with pytest.raises(
            ValueError, match=r"fit: argument 'model': expected a process and a 'time' whose.*torch\.nn\.Module"
        ):
            fit(model, torch.zeros(4, DIMS, dtype=torch.float64), steps=1, progress=False)
    for model in (trainable(VPDiscrete(betas.detach())), trainable(VP(), time=Scaled()), trainable(Trained())):
        assert len(fit(model, torch.zeros(4, DIMS, dtype=torch.float64), steps=1, progress=False).losses) == 1


def test_a_process_that_is_a_module_in_samples() -> None:
    """Its parameters are the model's, and those of the coefficients."""
    found = []
    for grad in ("autograd", "exact"):
        model = trainable(Trained())
        sample(model, leaf(2, DIMS), steps=4, grad=grad).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert model.process.ends.grad.abs().min() > 1e-6
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(*found, strict=True))
