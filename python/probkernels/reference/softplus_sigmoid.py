"""Softplus and its derivative, the sigmoid, and their backward pass, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def softplus_sigmoid(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """log(1 + exp(beta x)) / beta and sigmoid(beta x). No switch to the identity, unlike torch's softplus."""
    z = x.to(_wide(x)) * beta
    return (-logsigmoid(-z) / beta).to(x.dtype), torch.sigmoid(z).to(x.dtype)


def softplus_sigmoid_bwd(grad_value: Tensor, grad_slope: Tensor, x: Tensor, beta: float) -> Tensor:
    """grad_value s + grad_slope beta s (1 - s) with s = sigmoid(beta x)."""
    wide = _wide(x)
    z = x.to(wide) * beta
    s = torch.sigmoid(z)
    return (grad_value.to(wide) * s + grad_slope.to(wide) * (beta * s * torch.sigmoid(-z))).to(x.dtype)
