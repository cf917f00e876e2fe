"""PowerNorm as its authors' eager PyTorch module computes it, written anew: the baseline that users have today.

It keeps what makes that module slow: a (B, C, T, 1) copy of the input, a copy of the valid rows, 21 small kernels
forward and 34 backward (the original: 24 and 39), and a host synchronization (``iters.item()``) in every forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _PowerFunction(torch.autograd.Function):
    """Per-feature scaling whose backward uses the running estimate ``ema`` (1, C, 1, 1), and updates it in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean_sq: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, ema: Tensor, settings: Any
    ) -> Tensor:
        """x: (B, C, T, 1) divided by the root of scale; mean_sq, scale: (1, C, 1, 1), the batch's and the one used."""
        eps, alpha_bkw = settings
        z = x / (scale + eps).sqrt()
        ctx.save_for_backward(z, mean_sq, weight, ema)
        ctx.settings = eps, alpha_bkw
        return weight.reshape(ema.shape) * z + bias.reshape(ema.shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """grad_y: (B, C, T, 1). The mean in ema's update is over all tokens, padding included."""
        z, mean_sq, weight, ema = ctx.saved_tensors
        eps, alpha_bkw = ctx.settings
        g = grad_y * weight.reshape(ema.shape)
        a = g - (1 - alpha_bkw) * ema * z
        ema.add_((a * z).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=0, keepdim=True))
        grad_x = a / (mean_sq + eps).sqrt()
        grad_weight = (grad_y * z).sum(dim=3).sum(dim=2).sum(dim=0)
        grad_bias = grad_y.sum(dim=3).sum(dim=2).sum(dim=0)
        return grad_x, None, None, grad_weight, grad_bias, None, None


def group_scale(x: Tensor, groups: int, eps: float) -> Tensor:
    """Divides each group of C / groups features of a token by its root mean square. x: (T, B, C)."""
    grouped = x.reshape(*x.shape[:2], groups, -1)
    mean_sq = (grouped * grouped).mean(dim=3, keepdim=True)
    return (grouped / (mean_sq + eps).sqrt()).reshape(x.shape)


def normalize(
    x: Tensor,
    pad_mask: Tensor | None,
    groups: int | None,
    weight: Tensor,
    bias: Tensor,
    phi: Tensor | None,
    ema: Tensor,
    settings: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """x: (T, B, C) -> y (T, B, C) and the batch's mean square (1, C, 1, 1), which is divided by where phi is None."""
    if groups is not None:
        x = group_scale(x, groups, settings[0])
    rows = (x.clone() if pad_mask is None else x[~pad_mask.t()]).reshape(-1, x.shape[-1]).detach()
    mean_sq = (rows * rows).mean(dim=0).reshape(ema.shape)
    image = x.permute(1, 2, 0).contiguous().unsqueeze(3)
    y = _PowerFunction.apply(image, mean_sq, mean_sq if phi is None else phi, weight, bias, ema, settings)
    return y.squeeze(3).permute(2, 0, 1), mean_sq


class OfficialPowerNorm(nn.Module):
    """The official module: group scaling (None: without), then PN with warm-up and the batch's denominators backward.

    ``normalize`` may be replaced by its torch.compile. The running statistic is rebound and not updated in place:
    compiled together with an update in place, torch 2.13 takes the updated value for the backward, which is wrong.
    """

    def __init__(
        self,
        num_features: int,
        groups: int | None = 1,
        warmup_iters: int = 10000,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
    ) -> None:
        super().__init__()
        self.groups, self.warmup_iters, self.alpha_fwd = groups, warmup_iters, alpha_fwd
        self.settings = (eps, alpha_bkw)
        self.normalize = normalize
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_phi", torch.ones(1, num_features, 1, 1))
        self.register_buffer("ema_gz", torch.zeros(1, num_features, 1, 1))
        self.register_buffer("iters", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """x: (T, B, C), pad_mask: (B, T) True for padding -> (T, B, C)."""
        self.iters.copy_(self.iters + 1)
        t, phi = self.iters.item(), self.running_phi
        given = None if t <= self.warmup_iters else phi
        y, mean_sq = self.normalize(x, pad_mask, self.groups, self.weight, self.bias, given, self.ema_gz, self.settings)
        if t < self.warmup_iters:
            phi = phi * (t - 1) / t + mean_sq / t
        self.running_phi = self.alpha_fwd * phi + (1 - self.alpha_fwd) * mean_sq
        return y
