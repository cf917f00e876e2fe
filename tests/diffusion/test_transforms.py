"""Samplers within torch.func, and callbacks that write to the caller's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probkernels.diffusion import (
    VP,
    BrownianBridge,
    Denoiser,
    VPDiscrete,
    decode,
    encode,
    grid,
    learned_ancestral,
    predictor_corrector,
    sample,
)  # fmt: skip
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap


class Net(nn.Module):
    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, outputs).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(x).tanh()


class Sampler(nn.Module):
    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, **how: Any) -> Tensor:
        return sample(self.model, x, **how).square().sum()


MODEL = Denoiser(Net(), VP())
X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
HOW: dict[str, Any] = {"solver": "ddim", "steps": 3}


def test_gradients_of_functions_are_never_zeros_without_a_word() -> None:
    parameters = dict(MODEL.named_parameters())

    def of_parameters(mode: str | None) -> Any:
        return grad(lambda p: functional_call(Sampler(MODEL), {f"model.{k}": v for k, v in p.items()}, X,
                                              {**HOW, "grad": mode}))(parameters)  # fmt: skip

    chain = VPDiscrete.linear(20)
    learned = Denoiser(Net(4), chain, pred="v", variance=True)
    bridge = BrownianBridge(10)
    calls = [
        lambda: grad(lambda x: sample(MODEL, x, **HOW).sum())(X),
        lambda: vmap(grad(lambda x: sample(MODEL, x[None], **HOW).sum()))(X),
        lambda: grad(lambda x: encode(MODEL, x, times=grid(VP(), 3, t_min=0.1)).sum())(X),
        lambda: grad(lambda x: decode(MODEL, x, times=grid(VP(), 3)).sum())(X),
        lambda: of_parameters(None),
        lambda: grad(lambda x: learned_ancestral(learned, x, grid(chain, 4, "trailing"), seeds=1).sum())(X),
        lambda: grad(lambda x: predictor_corrector(MODEL, x, grid(VP(), 3)).sum())(X),
        lambda: grad(lambda x: bridge.sample(MODEL.net, x, steps=2).sum())(X),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError, match=r"Hint: (use grad='autograd'|detach)|use sample"):
            call()
    given = X.clone().requires_grad_()
    sample(MODEL, given, grad="exact", **HOW).square().sum().backward()
    got = grad(lambda x: sample(MODEL, x, grad="autograd", **HOW).square().sum())(X)
    assert given.grad is not None and torch.allclose(got, given.grad)
    assert torch.allclose(of_parameters("autograd")["net.layer.weight"], MODEL.net.layer.weight.grad)  # type: ignore[union-attr, arg-type]
    MODEL.zero_grad()


@pytest.mark.parametrize("mode", ["exact", "reversible", "continuous"])
def test_modes_that_call_the_net_again_say_what_to_use(mode: str) -> None:
    how = {**HOW, "grad": mode, "solver": "alf" if mode == "reversible" else "ddim"}
    for transformed in (grad(lambda x: sample(MODEL, x, **how).sum()), vmap(lambda x: sample(MODEL, x[None], **how))):
        with pytest.raises(NotImplementedError, match=r"sample: argument 'grad': expected 'autograd' within"):
            transformed(X)


def test_what_is_constant_or_linear_needs_no_mode() -> None:
    """vmap and forward mode go through a run without a graph, and so do constants of a gradient."""
    plain = sample(MODEL, X, **HOW)
    assert torch.allclose(vmap(lambda x: sample(MODEL, x[None], **HOW)[0])(X), plain)
    tangent = torch.ones_like(X)
    _, along = jvp(lambda x: sample(MODEL, x, **HOW), (X,), (tangent,))
    near = (sample(MODEL, X + 1e-6 * tangent, **HOW) - sample(MODEL, X - 1e-6 * tangent, **HOW)) / 2e-6
    assert torch.allclose(along, near, atol=1e-6)
    assert torch.allclose(grad(lambda x: (x * sample(MODEL, X, **HOW)).sum())(X), plain)


@pytest.mark.parametrize("solver", ["ddim", "heun", "obelm", "bdia", "unipc", "alf"])
@pytest.mark.parametrize("mode", [None, "autograd", "exact"])
def test_a_callback_that_writes_to_the_callers_noise_changes_nothing(solver: str, mode: str | None) -> None:
    """Solvers that keep the first state used it after the write."""
    x = X.clone()

    def write(n: int, state: Tensor) -> None:
        x.mul_(3)

    expected = sample(MODEL, x, solver=solver, steps=4, grad=mode)
    got = sample(MODEL, x, solver=solver, steps=4, grad=mode, callback=write)
    assert torch.equal(got, expected)
