"""The continuous adjoint: printed slopes, the formulas of each method, torchdiffeq's figures, convergence, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, VPDiscrete, grid, sample
from torch import Tensor

from tests.diffusion.densities import gaussian
from tests.diffusion.test_gradients import DIMS, Net, denoiser, everything, gradients, leaf, same

TIMES = grid(VP(t_min=1e-3), 6, "edm")


def slope(solver: str, times: Tensor) -> float:
    """Of O1, whose noise is linear in x: the same at every x_T."""
    x_T = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    sample(gaussian(), x_T, solver=solver, times=times, grad="continuous").backward()
    return float(x_T.grad)


@pytest.mark.parametrize(
    ("steps", "kind", "printed"),
    [(10, "t", -0.0031191627), (20, "t", 0.0259809680), (50, "t", 0.2195507167), (100, "t", 0.3429979148),
     (10, "lambda", -1.2876991222), (20, "lambda", 0.0044944238), (50, "lambda", 0.1552090982)],
)  # fmt: skip
def test_slopes_of_euler_on_gaussian_data(steps: int, kind: str, printed: float) -> None:
    assert slope("ddim", grid(VP(t_min=1e-3), steps, kind)) == pytest.approx(printed, abs=1e-10)


@pytest.mark.parametrize("solver", ["heun", "midpoint", "rk4"])
def test_slopes_of_other_methods_by_hand(solver: str) -> None:
    """a' = -F(rho) a from the sample to x_T, F = rho / (s^2 + rho^2)."""
    process = VP()
    rho, alpha = process.rho(TIMES), process.alpha(TIMES)

    def f(r: Tensor, a: Tensor) -> Tensor:
        return -r / (0.25 + r * r) * a

    a = alpha[-1]
    for r, r1 in zip(rho.flip(0)[:-1], rho.flip(0)[1:], strict=True):
        h = r1 - r
        k1 = f(r, a)
        k2 = f(r + h / 2, a + h / 2 * k1)
        k3 = f(r + h / 2, a + h / 2 * k2)
        k4 = f(r1, a + h * k3)
        step = {"heun": (k1 + f(r1, a + h * k1)) / 2, "midpoint": k2, "rk4": (k1 + 2 * k2 + 2 * k3 + k4) / 6}[solver]
        a = a + h * step
    assert slope(solver, TIMES) == pytest.approx(float(a / alpha[0]), rel=1e-12)


@pytest.mark.parametrize(("solver", "theirs"), [("ddim", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")])
def test_equals_torchdiffeq(solver: str, theirs: str) -> None:
    """To x_T, the condition (which they carry as a state that stands still) and parameters, away from the optimum."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    model, leaves = denoiser(), {"x_T": leaf(2, DIMS), "cond": leaf(2, 4, seed=1)}
    process = model.process
    got = gradients(model, leaves, "continuous", solver=solver, times=TIMES)

    class Flow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rho: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            y, cond = state
            t = process.t_of_rho(rho)
            return self.model.eps(process.alpha(t) * y, t, cond), torch.zeros_like(cond)

    a = process.alpha(TIMES)
    start = (leaves["x_T"] / a[0], leaves["cond"])
    x = a[-1] * torchdiffeq.odeint_adjoint(Flow(), start, process.rho(TIMES), method=theirs)[0][-1]
    loss = (x * torch.arange(1.0, x.numel() + 1).view_as(x)).sin().sum() + x.square().mean()
    same(got, list(torch.autograd.grad(loss, [*leaves.values(), *model.parameters()])), 1e-9)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("midpoint", 2), ("rk4", 4)])
def test_converges_to_the_gradient_for_every_input(solver: str, order: int) -> None:
    """The gap to the exact gradient of the same steps falls with the method's order; at few steps it is no rounding."""
    model, leaves = denoiser(), everything()
    gaps = []
    for steps in (8, 16):
        how = {"solver": solver, "times": grid(VP(t_min=0.1, t_max=0.7), steps)}
        pairs = zip(*(gradients(model, leaves, mode, **how) for mode in ("continuous", "exact")), strict=True)
        gaps.append([float((c - e).norm() / e.norm()) for c, e in pairs])
    for coarse, fine in zip(*gaps, strict=True):
        assert 1e-8 < fine < coarse / 2 ** (order - 0.5)


def test_frozen_nets_and_nothing_to_differentiate() -> None:
    model, x_T = denoiser().requires_grad_(False), leaf(2, DIMS)
    sample(model, x_T, solver="ddim", steps=3, grad="continuous").sum().backward()
    assert x_T.grad.any()
    assert not sample(model, x_T.detach(), solver="ddim", steps=3, grad="continuous").requires_grad


def test_saved_bytes_grow_by_one_state_a_step() -> None:
    def saved(steps: int) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            assert sample(model, x_T, solver="midpoint", steps=steps, grad="continuous").requires_grad
        return sum(sizes.values())

    model, x_T = denoiser(), leaf(64, DIMS)
    assert saved(30) - saved(10) == 20 * x_T.numel() * 8


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"solver": "dpmpp_2m"}, "'solver': expected one of 'ddim', 'heun', 'midpoint', 'rk4', as grad is"),
        ({"eta": 0.5}, "'eta': expected no noise, as grad is 'continuous'"),
        ({"steps": None, "times": grid(VP(), 3).requires_grad_()}, "'times': expected times without a gradient"),
        ({"model": Denoiser(Net().double(), VPDiscrete.linear(), pred="v")}, "'times': expected some noise at the end"),
        ({"model": denoiser(dropout=0.5).train()}, "'model': expected a net that draws no random numbers"),
        ({"model": denoiser(norm=True)}, "batch normalization in eval mode"),
        ({"store": 10}, "'grad': expected 'exact', as 'store' or 'last_k'"),
    ],
)
def test_refusals(change: dict[str, Any], text: str) -> None:
    how = {"model": denoiser(), "solver": "ddim", "steps": 3, **change}
    with pytest.raises(ValueError, match=text):
        sample(how.pop("model"), leaf(2, DIMS), grad="continuous", **how)


def test_second_derivatives_are_refused() -> None:
    x_T = leaf(2, DIMS)
    x = sample(denoiser(), x_T, solver="ddim", steps=3, grad="continuous")
    with pytest.raises(NotImplementedError, match="grad='continuous' has no second derivative"):
        torch.autograd.grad(x.sum(), x_T, create_graph=True)
