"""What is restored for the backward pass beside tensors: plain attributes of modules, and numbers drawn late."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.diffusion import VP, Denoiser
from torch import Tensor, nn

from tests.diffusion.test_gradient_replay import MODES, ODE, denoiser, equal, grads


@pytest.fixture(params=MODES, name="how")
def _how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


class Reversed(torch.autograd.Function):
    """Multiplies the gradient alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class Switches(nn.Module):
    """What outputs do not show: a factor of the gradient, and whether there is one at all."""

    factor, stopped = -1.0, False

    def forward(self, h: Tensor) -> Tensor:
        return Reversed.apply(h.detach() if self.stopped else h, self.factor)


@pytest.mark.parametrize(("name", "value"), [("scale", 2.0), ("factor", 3.0), ("stopped", True), ("extra", torch.sin)])
def test_attributes_are_those_of_the_forward_pass(how: dict[str, Any], name: str, value: Any) -> None:
    """Set on the module, or hidden there where they are the class's; counters stay as they are."""
    models = []

    def make() -> Denoiser:
        models.append(denoiser(Switches()))
        return models[-1]

    def switch(model: Denoiser) -> None:
        setattr(model.net if hasattr(model.net, name) else model.net.middle, name, value)

    equal(make, how, switch)
    for model in models:
        assert getattr(model.net if hasattr(model.net, name) else model.net.middle, name) == value
    assert models[0].net.calls >= models[1].net.calls


@pytest.mark.parametrize(("draw", "name"), [(random.random, "Python"), (np.random.rand, "NumPy")])
def test_numbers_drawn_in_late_calls_alone(how: dict[str, Any], draw: Callable[[], float], name: str) -> None:
    """Torch's are drawn again; others are watched in the first call alone, and the error says so."""
    model = denoiser(extra=lambda h: draw() if model.net.calls > 2 else 0.0)
    with pytest.raises(RuntimeError, match=f"; {name}'s random numbers were drawn after its first call"):
        grads(model, how)
    for draw_late in (draw, lambda: torch.rand(())):
        net = denoiser().net
        net.extra = lambda h, f=draw_late, net=net: h * f() if net.calls > 2 else 0.0
        with pytest.raises(ValueError, match=r"'model': expected a net that draws no random numbers.*model\.eval"):
            grads(Denoiser(net, VP(), pred="v"), ODE)
    if how["grad"] == "exact":
        equal(lambda: denoiser(), how, lambda m: torch.rand(2))
