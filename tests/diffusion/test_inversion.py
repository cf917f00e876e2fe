"""Data to noise and back: closed forms, orders, gradients, and the exact way in whole numbers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from probkernels.diffusion import EDM, VP, Denoiser, FlowMatching, Latent, VPDiscrete, decode, encode, grid, invert
from torch import Tensor, nn

from tests.diffusion.densities import gaussian
from tests.diffusion.test_gradients import DIMS, Net, denoiser, leaf, same

FINE = VP(t_min=1e-3)


def near(got: Tensor, expected: Tensor) -> bool:
    """All that fixed point leaves of numbers finer than its own."""
    return float((got - expected).abs().max()) <= 2**-37


def exact_noise(x0: Tensor) -> Tensor:
    """O1: x_T = alpha_T m + (V_T / V_0) (x_0 - alpha_0 m), V the standard deviation at either end."""
    (a0, a1), (s0, s1) = ((f(1e-3), f(1.0)) for f in (FINE.alpha, FINE.sigma))
    v0, v1 = ((a * a / 4 + s * s).sqrt() for a, s in ((a0, s0), (a1, s1)))
    return a1 / 2 + v1 / v0 * (x0 - a0 / 2)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)])
def test_encoding_approaches_the_exact_noise(solver: str, order: int) -> None:
    x0 = torch.tensor([[-1.0], [0.3], [0.9984198691316941]], dtype=torch.float64)
    exact = exact_noise(x0)
    assert float(exact[2]) == pytest.approx(1, abs=1e-9)  # as printed
    errors = []
    for steps in (40, 80):
        x_T = encode(gaussian(), x0, solver=solver, times=grid(FINE, steps, "edm"))
        errors.append(float((x_T - exact).abs().max()))
    assert errors[1] < errors[0] / 2 ** (order - 0.4)


@pytest.mark.parametrize("solver", ["ddim", "rk4"])
def test_decoding_goes_back_within_the_error_of_the_steps(solver: str) -> None:
    model, x0 = denoiser(), leaf(5, DIMS).detach()
    errors = []
    for steps in (20, 80):
        how: dict[str, Any] = {"solver": solver, "steps": steps, "grid": "lambda"}
        errors.append(float((decode(model, encode(model, x0, **how), **how) - x0).abs().max()))
    assert 0 < errors[1] < errors[0] / 3.5


def test_ddim_inversion_step_by_step() -> None:
    """x' = alpha' D + sigma' eps towards the noise, both predicted at the state and time that a step starts from."""
    model, x0, times = denoiser(), leaf(4, DIMS).detach(), grid(FINE, 5)
    x, process = x0, model.process
    for t, t1 in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):
        x = process.alpha(t1) * model.x0(x, t) + process.sigma(t1) * model.eps(x, t)
    assert torch.allclose(encode(model, x0, times=times), x.detach(), rtol=1e-12)


def test_gradients_of_encoding() -> None:
    model, x0, cond = denoiser(), leaf(3, DIMS), leaf(3, 4, seed=1)
    targets = [x0, cond, *model.parameters()]
    found = []
    for grad in ("exact", "autograd"):
        x_T = encode(model, x0, solver="heun", steps=6, grid="lambda", cond=cond, grad=grad)
        found.append(list(torch.autograd.grad(x_T.sin().sum(), targets)))
    same(*found)
    assert not encode(model, x0, steps=3).requires_grad


def test_conditions_and_guidance_of_both_directions() -> None:
    model, x0 = denoiser(), leaf(3, DIMS).detach()
    how: dict[str, Any] = {"cond": leaf(3, 4).detach(), "uncond": leaf(1, 4, seed=2).detach(), "guidance": 1.5}
    latent = invert(model, x0, steps=20, **how)
    assert near(decode(model, latent, **how), x0)
    assert not torch.allclose(decode(model, latent, cond=how["cond"]), x0, atol=1e-3)
    fine: dict[str, Any] = {"solver": "rk4", "steps": 40, "grid": "lambda", **how}
    assert torch.allclose(decode(model, encode(model, x0, **fine), **fine), x0, atol=1e-4)


# --- exact ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_way_back_is_exact(steps: int, dtype: torch.dtype) -> None:
    model = denoiser().to(dtype)
    x0 = (leaf(40, DIMS).detach() * 64).round().div(64).to(dtype)  # levels, as images have
    latent = invert(model, x0, steps=steps, grid="lambda")
    assert latent.x.dtype == dtype and latent.y.dtype == torch.int64
    assert near(decode(model, latent), x0) if dtype is torch.float64 else torch.equal(decode(model, latent), x0)


def test_arbitrary_data_come_back_within_their_last_place() -> None:
    model, x0 = denoiser().float(), leaf(500, DIMS).detach().float() ** 5
    back = decode(model, invert(model, x0, steps=30))
    assert near(back, x0)
    large = x0.abs() >= 2**-12
    assert torch.equal(back[large], x0[large]) and not large.all()


def test_inversion_step_by_step() -> None:
    """y -= h/2 p; p = 2 eps - p in the middle; y -= h/2 p, from the data's own noise on."""
    model, x0, times = denoiser(), leaf(4, DIMS).detach(), grid(FINE, 3)
    process = model.process
    rho = process.rho(times)
    y, p = x0 / process.alpha(times[-1]), model.eps(x0, times[-1])
    for r, r1 in zip(rho.flip(0)[:-1], rho.flip(0)[1:], strict=True):
        y = y + (r1 - r) / 2 * p
        t = process.t_of_rho((r + r1) / 2)
        p = 2 * model.eps(process.alpha(t) * y, t) - p
        y = y + (r1 - r) / 2 * p
    assert torch.allclose(invert(model, x0, times=times).x, y * process.alpha(times[0]), rtol=1e-8)


def test_the_noise_is_that_of_the_flow() -> None:
    x0 = torch.tensor([[-1.0], [0.3]], dtype=torch.float64)
    latent = invert(gaussian(), x0, times=grid(FINE, 200, "edm"))
    assert torch.allclose(latent.x, exact_noise(x0), atol=1e-3)
    assert torch.allclose(latent.y.double() * 2.0**-36 * FINE.alpha(1.0), latent.x, rtol=1e-12)


def test_other_processes() -> None:
    for process, times in ((EDM(), None), (VPDiscrete.linear(), grid(VPDiscrete.linear(), 20, t_min=0.01))):
        model = Denoiser(denoiser().net, process, pred="v")
        x0 = (leaf(9, DIMS).detach() * 64).round() / 64
        how = {"steps": 20, "grid": "edm"} if times is None else {"times": times}
        latent = invert(model, x0, **how)
        assert near(decode(model, latent), x0)


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model, x0 = denoiser(), leaf(2, DIMS).detach()
    decode(model, invert(model, x0, steps=3, progress=True), progress=True)
    assert capsys.readouterr().err.count("3/3") >= 2


# --- refusals ---


def a_latent() -> Latent:
    return invert(denoiser(), torch.zeros(2, DIMS, dtype=torch.float64), steps=3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: encode(nn.Identity(), x, steps=3), TypeError, "encode: argument 'model': expected a Denoiser"),
        (lambda x: invert(denoiser(), x.long(), steps=3), TypeError, "invert: argument 'x0'"),
        (lambda x: encode(denoiser(), x, solver="dpmpp_2m", steps=3), ValueError, "'solver': expected one of"),
        (lambda x: encode(denoiser(), x), ValueError, "'steps': expected one of 'steps' and 'times', got neither"),
        (lambda x: invert(denoiser(), x, steps=2, times=grid(FINE, 2)), ValueError, "got both"),
        (lambda x: encode(denoiser(), x, times=grid(FINE, 2).flip(0)), ValueError, "times that fall strictly"),
        (lambda x: encode(Denoiser(Net(), VPDiscrete.linear()), x, steps=3), ValueError, "some noise at the last time"),
        (lambda x: invert(Denoiser(Net(), FlowMatching(t_min=0.1)), x, steps=3), ValueError, "some signal at the fir"),
        (lambda x: invert(denoiser(), x.clone().requires_grad_(), steps=3), NotImplementedError, "encode.. has grad"),
        (lambda x: invert(denoiser(norm=True).train(), x, steps=3), ValueError, "batch normalization in eval mode"),
        (lambda x: invert(denoiser(dropout=0.5).train(), x, steps=3), ValueError, "draws no random numbers"),
        (lambda x: invert(denoiser(), x * torch.nan, steps=3), FloatingPointError, "NaN or infinity"),
        (lambda x: decode(denoiser(), a_latent(), steps=3), ValueError, "'options': expected some of cond"),
        (lambda x: decode(nn.Identity(), a_latent()), TypeError, "decode: argument 'model'"),
    ],
)
def test_refusals(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(torch.ones(2, DIMS, dtype=torch.float64))
