"""Training steps on the oracle's inputs, shared by the module tests."""

from __future__ import annotations

from typing import Any

import torch
from probkernels import nn
from torch import Tensor

from tests.ops import oracle


def module(**settings: Any) -> nn.PowerNorm:
    norm = nn.PowerNorm(oracle.C, **settings).double()
    with torch.no_grad():
        norm.weight.copy_(oracle.affine()[0])
        norm.bias.copy_(oracle.affine()[1])
    return norm


def step(norm: torch.nn.Module, k: int, pad_mask: Tensor | None = None) -> dict[str, Tensor]:
    """One training iteration on the oracle's inputs, and everything it shows."""
    norm.zero_grad()
    device = norm.weight.device
    x, grad_y = oracle.inputs(k).to(device).requires_grad_(), oracle.output_grads(k).to(device)
    if pad_mask is not None:
        grad_y[pad_mask.t()] = 0
    y = norm(x, pad_mask)
    y.backward(grad_y)
    return {
        "y": y[0, 0].detach(),
        "grad_x": x.grad[0, 0],
        "grad_x[2,1]": x.grad[2, 1],
        "sum|y|": y.detach().abs().sum(),
        "sum|grad_x|": x.grad.abs().sum(),
        "grad_weight": norm.weight.grad,
        "grad_bias": norm.bias.grad,
        "psi2": norm.running_psi2,
        "nu": norm.running_nu,
        "ema_gz": norm.running_nu / (1 - oracle.ALPHA),
    }


def state(norm: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in norm.state_dict().items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor], *, exact: bool = True) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0 if exact else 1e-12, atol=0 if exact else 1e-12, msg=key)
