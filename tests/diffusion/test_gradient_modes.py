"""Every gradient mode: what it refuses, and what it works with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, Denoiser, grid, sample
from torch import Tensor, nn

from tests.diffusion.test_gradients import DIMS, Net, denoiser, leaf, same

MODES: dict[str, dict[str, Any]] = {
    "exact": {"grad": "exact", "solver": "dpmpp_2m"},
    "bytes": {"grad": "exact", "solver": "dpmpp_2m", "store": 10**9},
    "revolve": {"grad": "exact", "solver": "dpmpp_2m", "store": "revolve=2"},
    "reversible": {"grad": "reversible", "solver": "alf"},
    "continuous": {"grad": "continuous", "solver": "ddim"},
}
TIMES = grid(VP(t_min=0.02), 4)


@pytest.fixture(params=MODES, name="mode")
def _mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**MODES[request.param], "times": TIMES}


def test_times_that_rise_are_refused(mode: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'times': expected times that fall strictly"):
        sample(denoiser(), leaf(2, DIMS), **{**mode, "times": TIMES.flip(0)})


def test_undeclared_tensors_are_refused(mode: dict[str, Any]) -> None:
    """A closure, and a parameter of another module."""
    scale, other = torch.ones((), dtype=torch.float64, requires_grad=True), nn.Linear(DIMS, DIMS).double()

    class Closure(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return scale * super().forward(x, t, cond)

    class Borrowed(Net):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return other(super().forward(x, t, cond))

    for net in (Closure(), Borrowed()):
        with pytest.raises(ValueError, match="'model': expected a net whose tensors that require a gradient"):
            sample(Denoiser(net.double(), VP(), pred="v"), leaf(2, DIMS), **mode)


def test_nan_and_infinity_are_refused(mode: dict[str, Any]) -> None:
    for bad in (torch.nan, torch.inf):

        class Breaks(Net):
            def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, bad: float = bad) -> Tensor:
                return super().forward(x, t, cond) + torch.where(t[:, None] < 0.6, bad, 0.0)

        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            sample(Denoiser(Breaks().double(), VP(), pred="v"), leaf(2, DIMS), **mode)


def test_second_derivatives_are_refused(mode: dict[str, Any]) -> None:
    x_T = leaf(2, DIMS)
    x = sample(denoiser(), x_T, **mode)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(x.sum(), x_T, create_graph=True)


def test_batch_norm_in_training_is_refused(mode: dict[str, Any]) -> None:
    model = denoiser(norm=True)
    with pytest.raises(ValueError, match="batch normalization in eval mode"):
        sample(model, leaf(2, DIMS), **mode)
    assert sample(model.eval(), leaf(2, DIMS), **mode).requires_grad


def test_dropout_is_repeated_or_refused(mode: dict[str, Any]) -> None:
    model, x_T = denoiser(dropout=0.5).train(), leaf(2, DIMS)

    def draw(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return sample(model, x, **mode).sum()

    if mode["grad"] == "continuous":
        with pytest.raises(ValueError, match="random"):
            draw(x_T)
        return
    slope = torch.autograd.grad(draw(x_T), x_T)[0]
    step = 1e-4 * torch.ones_like(x_T)
    with torch.no_grad():
        change = draw(x_T + step) - draw(x_T - step)
    assert float(change) == pytest.approx(float((2 * step * slope).sum()), rel=1e-4)


@pytest.mark.parametrize("whole", [False, True], ids=["net", "sample"])
def test_compilation(mode: dict[str, Any], whole: bool) -> None:
    """Of the net, and of the sampler around it."""
    model, x_T = denoiser(), leaf(2, DIMS)
    expected = torch.autograd.grad(sample(model, x_T, **mode).sum(), [x_T, *model.net.first.parameters()])
    torch._dynamo.reset()
    compiled = Denoiser(torch.compile(model.net, backend="aot_eager"), VP(), pred="v")

    def draw(x: Tensor) -> Tensor:
        return sample(model, x, **mode)

    x = torch.compile(draw, backend="aot_eager")(x_T) if whole else sample(compiled, x_T, **mode)
    tolerance = 1e-9 if mode["grad"] == "reversible" else 1e-12  # its states are rounded to 36 bits
    same(list(torch.autograd.grad(x.sum(), [x_T, *model.net.first.parameters()])), list(expected), tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_a_scaled_loss(mode: dict[str, Any], dtype: torch.dtype) -> None:
    """The gradient of a training step with mixed precision is that of single precision up to its rounding."""
    model = denoiser().float()
    x_T = leaf(64, DIMS).detach().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sample(model, x_T, **mode).square().mean().backward()
    expected = [p.grad.clone() for p in model.net.first.parameters()]
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    with torch.autocast("cpu", dtype):
        loss = sample(model, x_T, **mode).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    found = [p.grad for p in model.net.first.parameters()]
    assert all(g.dtype == torch.float32 for g in found)
    same(found, expected, 5e-2 if dtype is torch.bfloat16 else 5e-3)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**12  # nothing overflowed
