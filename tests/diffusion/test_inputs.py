"""Inputs that would pass unnoticed: times outside a process, noise that is broadcast, states that callbacks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.diffusion import (
    EDM,
    VP,
    Denoiser,
    FlowMatching,
    VPDiscrete,
    bits_per_dim,
    dsm_loss,
    encode,
    grid,
    learned_ancestral,
    log_prob,
    sample,
    vlb_term,
)
from torch import Tensor, nn

CHAIN = VPDiscrete.linear(10, 0.01, 0.2)
SOLVERS = {"reversible": "alf"}


class Halved(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


class Conditional(nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return x / 2 + cond


class Wide(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x / 2, x / 4], 1)


@pytest.mark.parametrize(
    ("process", "t", "got"),
    [
        (CHAIN, 5, "5.0"),  # a step in place of a time
        (CHAIN, torch.tensor([0.5, 7.0, 8.0]), r"7.0 at \[1\], and 1 more"),
        (VP(), -0.5, "-0.5"),
        (VP(), float("nan"), "nan"),
        (FlowMatching(), 1.1, "1.1"),
        (EDM(), 100.0, "100.0"),
    ],
)
def test_times_outside_a_process(process: Any, t: Any, got: str) -> None:
    model, x = Denoiser(Halved(), process, pred="v"), torch.zeros(3, 2)
    wide = Denoiser(Wide(), process, pred="v", variance=True)
    calls: list[Callable[[], Tensor]] = [
        lambda: model(x, t), lambda: model.x0(x, t), lambda: model.eps(x, t), lambda: model.v(x, t),
        lambda: wide.both(x, t)[0], lambda: process.noised(x, t, x), lambda: dsm_loss(model, x, t=t),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=rf"argument 't': expected times within 0 \.\. {process.t_max}, got {got}"):
            call()


def test_both_ends_are_inside() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        process = EDM(t_max=0.1)  # more, in float32
        t = torch.tensor([0.0, process.t_max], dtype=dtype)
        assert Denoiser(Halved(), process, pred="x0").x0(torch.ones(2, 2), t).isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 1), ()])
def test_noise_is_not_broadcast(shape: tuple[int, ...]) -> None:
    """Rows would share their noise, and the loss would be that of another distribution."""
    model, x0, noise = Denoiser(Halved(), CHAIN, pred="v"), torch.zeros(4, 3), torch.zeros(shape)
    for call in (
        lambda: dsm_loss(model, x0, noise=noise),
        lambda: vlb_term(model, x0, torch.ones(4).long(), noise=noise),
        lambda: CHAIN.noised(x0, 0.5, noise),
    ):
        with pytest.raises(ValueError, match=r"argument 'noise': expected shape \(4, 3\)"):
            call()


def test_noise_of_another_dtype_is_converted() -> None:
    model, x0, noise = Denoiser(nn.Bilinear(3, 1, 3), VP()), torch.zeros(4, 3), torch.ones(4, 3)
    model.net.forward = lambda x, t: x @ model.net.weight[:, :, 0]  # type: ignore[method-assign]
    t = torch.full((4,), 0.5)
    assert torch.equal(dsm_loss(model, x0, t=t, noise=noise.double()), dsm_loss(model, x0, t=t, noise=noise))


def test_times_of_another_batch() -> None:
    with pytest.raises(ValueError, match=r"dsm_loss: argument 't': expected shape \(4,\) \(or 0-d\)"):
        dsm_loss(Denoiser(Halved(), VP()), torch.zeros(4, 3), t=torch.rand(3))


@pytest.mark.parametrize(
    ("guidance", "error", "text"),
    [
        ([2.0, 2.0, 2.0], TypeError, "expected a number or a tensor, got list"),
        ("3", TypeError, "expected a number or a tensor, got str '3'"),
        (True, TypeError, "expected a number or a tensor, got bool True"),
        (torch.ones(2), ValueError, r"expected shape \(3,\) \(or 0-d\): one weight a sample, got shape \(2,\)"),
        (torch.ones(3, 2), ValueError, r"expected shape \(3,\)"),
    ],
)
def test_guidance_of_another_kind(guidance: Any, error: type[Exception], text: str) -> None:
    model, cond = Denoiser(Conditional(), VP(), pred="x0"), torch.zeros(3, 2)
    with pytest.raises(error, match=f"argument 'guidance': {text}"):
        sample(model, torch.zeros(3, 2), steps=2, cond=cond, uncond=cond, guidance=guidance)


def test_guidance_of_numpy() -> None:
    model, x, cond = Denoiser(Conditional(), VP(), pred="x0"), torch.ones(3, 2), torch.ones(3, 2)
    how = {"steps": 2, "cond": cond, "uncond": 0 * cond}
    assert torch.equal(sample(model, x, guidance=np.float32(2), **how), sample(model, x, guidance=2.0, **how))


def test_samples_of_one_number() -> None:
    x0, t = torch.linspace(-1, 1, 4), torch.rand(4)
    model = Denoiser(Halved(), VP(), pred="v")
    loss = [dsm_loss(model, x, t=t, noise=torch.ones_like(x)) for x in (x0, x0[:, None])]
    assert torch.equal(*loss)
    model = Denoiser(Halved(), VP(), pred="x0", clip=0.3, dynamic=0.9)
    assert torch.equal(sample(model, x0, steps=3)[:, None], sample(model, x0[:, None], steps=3))
    model = Denoiser(Halved(), CHAIN, pred="x0")
    terms = [vlb_term(model, x, torch.arange(4), noise=torch.ones_like(x)) for x in (x0, x0[:, None])]
    assert torch.equal(*terms)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, x: encode(m, x, steps=2, noise=x[None]), ValueError, "encode: argument 'options'.*got 'noise'"),
        (lambda m, x: encode(m, x, steps=2, gard="exact"), ValueError, "encode: argument 'options'.*mean 'grad'"),
        (lambda m, x: log_prob(m, x, steps=2, guidence=2.0), ValueError, "log_prob: argument 'guide'.*mean 'guidance'"),
        (lambda m, x: sample(m, x, solver="dpmp_2m", steps=2), ValueError, "'solver'.*got 'dpmp_2m'.*mean 'dpmpp_2m'"),
        (
            lambda m, x: sample(m, x, solver="edm_stochastic", s_min=2, s_max=1, steps=2),
            ValueError,
            r"at most s_max \(1",
        ),
        (lambda m, x: vlb_term(m, x, torch.tensor([0.5, 1.0])), TypeError, "'index': expected an integer tensor"),
        (lambda m, x: bits_per_dim(m, x * 255), ValueError, "'x0': expected data in -1 .. 1, got 255"),
        (lambda m, x: bits_per_dim(m, x * torch.nan), ValueError, "'x0': expected data in -1 .. 1, got nan"),
    ],
)
def test_inputs_that_raise(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(Denoiser(Halved(), CHAIN, pred="v"), torch.ones(2, 3))


WRITES: list[Callable[[Tensor], Any]] = [
    lambda x: x.detach().mul_(2),
    lambda x: x.data.mul_(2),
    lambda x: x.detach().numpy().fill(7.0),
    lambda x: setattr(x, "data", x.data * 2),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("grad", [None, "autograd", "exact", "reversible", "continuous"])
def test_callbacks_that_write_past_the_version_counter(grad: str | None, write: Callable[[Tensor], Any]) -> None:
    model, solver = Denoiser(Halved(), VP(), pred="x0"), SOLVERS.get(grad or "", "ddim")
    with torch.inference_mode(grad is None), pytest.raises(ValueError, match="'callback': expected a function that"):
        sample(model, torch.ones(2, 3), solver=solver, steps=3, grad=grad, callback=lambda n, x: write(x))


@pytest.mark.parametrize("write", WRITES)
def test_callbacks_of_learned_variances_must_not_write(write: Callable[[Tensor], Any]) -> None:
    model = Denoiser(Wide(), VP(), pred="x0", variance=True)
    with pytest.raises(ValueError, match="learned_ancestral: argument 'callback': expected a function that leaves x"):
        learned_ancestral(model, torch.ones(2, 3), grid(VP(), 3), callback=lambda n, x: write(x))


def states(x_T: Tensor, **how: Any) -> tuple[Tensor, list[Tensor]]:
    """A sample, and what a callback keeps."""
    seen: list[Tensor] = []
    model = Denoiser(Halved(), VP(), pred="x0")
    return sample(model, x_T, steps=3, callback=lambda n, x: seen.append(x), **how), seen


def test_states_with_nan_reach_the_callback() -> None:
    assert len(states(torch.full((1, 2), torch.nan))[1]) == 3


@pytest.mark.parametrize("grad", [None, "exact", "reversible", "continuous"])
def test_kept_states_do_not_change_with_the_sample(grad: str | None) -> None:
    x, seen = states(torch.ones(2, 3), solver=SOLVERS.get(grad or "", "ddim"), grad=grad)
    x.detach().mul_(0)  # as x.clamp_(0, 1) of pictures
    assert all(state.any() for state in seen)


@pytest.mark.parametrize("grad", ["autograd", "exact"])
def test_a_loss_on_the_states(grad: str) -> None:
    """Only the graph of all steps holds them."""
    _, seen = states(torch.ones(2, 3, requires_grad=True), grad=grad)
    assert [x.requires_grad for x in seen] == [grad == "autograd"] * 3
