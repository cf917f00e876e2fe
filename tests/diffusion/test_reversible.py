"""Gradients by running backwards: equal the unrolled sampler's, the way back is exact, memory does not grow."""

from __future__ import annotations

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, grid, sample
from probkernels.diffusion.gradients.exact import Plan
from probkernels.diffusion.gradients.reversible import ONE, Leapfrog, State
from probkernels.diffusion.run import prepare
from torch import Tensor

from tests.diffusion.densities import mixture
from tests.diffusion.test_gradients import DIMS, Net, denoiser, everything, gradients, leaf, same


def leapfrog(steps: int, damping: float = 1.0, dtype: torch.dtype = torch.float64) -> Leapfrog:
    model = denoiser().to(dtype)
    made = prepare(model, leaf(4, DIMS).detach().to(dtype), solver="alf", steps=steps, grid="lambda", converts=True)
    return Leapfrog(Plan(made, lambda n, x: None, 0, None), damping)


@pytest.mark.parametrize("damping", [1.0, 0.9375])
def test_equals_the_unrolled_sampler_for_every_input(damping: float) -> None:
    """Up to the rounding of the state; 15/16 is a damping that fixed point has exactly."""
    model, leaves = denoiser(), everything()
    how = {"solver": "alf", "times": grid(VP(t_min=0.02), 10), "damping": damping}
    same(gradients(model, leaves, "reversible", **how), gradients(model, leaves, "autograd", **how), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("steps", "damping"), [(10, 1.0), (100, 1.0), (50, 0.95), (100, 0.9), (40, 0.8)])
def test_the_way_back_is_exact(steps: int, damping: float, dtype: torch.dtype) -> None:
    frog = leapfrog(steps, damping, dtype)
    state, _ = frog.forward()
    assert (state.rest is None) == (damping == 1)
    frog.back(state, lambda n, x: frog.plan.evaluate((n + 1, 0), x)[0])
    y, p, rest = state
    assert torch.equal(y, frog.start())
    assert torch.equal(p, frog.rounded(frog.plan.evaluate((0, 0), frog.input(y, frog.first))[0].double() * ONE))
    assert rest is None or not rest.any()


def test_a_wrong_end_is_noticed() -> None:
    """A backward pass leaves the end of the run as it was."""
    frog = leapfrog(10)
    (y, p, rest), _ = frog.forward()
    for _ in range(2):
        frog.backward(torch.ones(4, DIMS, dtype=torch.float64), State(y, p, rest))
    with pytest.raises(RuntimeError, match=r"did not end at x_T.*same bits again"):
        frog.backward(torch.ones(4, DIMS, dtype=torch.float64), State(y + 1, p, rest))


@pytest.mark.parametrize(
    ("kind", "value", "slope"), [("t", 0.753626853047, 0.549970915244), ("lambda", 0.754183690380, 0.551662072334)]
)
def test_value_and_slope_on_a_mixture(kind: str, value: float, slope: float) -> None:
    x_T = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)
    x = sample(mixture(), x_T, solver="alf", times=grid(VP(t_min=1e-3), 20, kind), grad="reversible")
    x.backward()
    assert float(x.detach()) == pytest.approx(value, abs=2e-10)
    assert float(x_T.grad) == pytest.approx(slope, abs=2e-9)


def test_saved_bytes_do_not_grow() -> None:
    def saved(steps: int, damping: float = 1.0) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            assert sample(model, x_T, solver="alf", steps=steps, grad="reversible", damping=damping).requires_grad
        return sum(sizes.values())

    model, x_T = denoiser(), leaf(64, DIMS)
    assert saved(5) == saved(40)
    assert saved(5, 0.9) == saved(40, 0.9) == saved(5) + x_T.numel() * 8


def test_refusals() -> None:
    model, x_T = denoiser(), leaf(2, DIMS)
    with pytest.raises(ValueError, match="'solver': expected 'alf', as grad is 'reversible', got 'ddim'"):
        sample(model, x_T, solver="ddim", steps=3, grad="reversible")
    with pytest.raises(ValueError, match=r"'damping': expected a number in \(1/2, 1\]"):
        sample(model, x_T, solver="alf", steps=3, grad="reversible", damping=0.3)
    with pytest.raises(ValueError, match="'damping': expected so little that 300 steps fit into 63 bits"):
        sample(model, x_T, solver="alf", steps=300, grad="reversible", damping=0.9)
    with pytest.raises(ValueError, match="'times': expected times without a gradient"):
        times = grid(VP(), 3).requires_grad_()
        sample(model, x_T, solver="alf", times=times, grad="reversible")
    with pytest.raises(FloatingPointError, match="NaN or infinity, or x / alpha exceeded"):
        sample(model, x_T * 1e8, solver="alf", steps=3, grad="reversible")
    x = sample(model, x_T, solver="alf", steps=3, grad="reversible")
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(x.sum(), x_T, create_graph=True)


def test_a_net_that_changes_is_noticed() -> None:
    class Drifts(Net):
        calls = 0

        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            self.calls += 1
            return super().forward(x, t, cond) + 1e-3 * self.calls

    x = sample(Denoiser(Drifts().double(), VP(), pred="v"), leaf(2, DIMS), solver="alf", steps=3, grad="reversible")
    with pytest.raises(RuntimeError, match="did not end at x_T"):
        x.sum().backward()
