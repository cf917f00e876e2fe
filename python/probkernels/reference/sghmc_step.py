"""A step of scale-adapted stochastic-gradient Hamiltonian Monte Carlo, in plain torch: to the bit what the kernels
compute. Products and sums are rounded one by one; roots are correctly rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import philox

LEAST_VARIANCE = 1e-16  # of the noise of a step


def _adapt(gradient: Tensor, tau: Tensor, g: Tensor, v: Tensor, eps: float) -> None:
    """Moves the averages g of gradients and v of their squares, over a window of tau + 1 steps, and the window."""
    share = 1 / (tau + 1)
    tau.copy_((tau + 1) - tau * (g * g / (v + eps)))
    g.add_(share * (gradient - g))
    v.add_(share * (gradient * gradient - v))


def sghmc_step_(
    weights: Sequence[Tensor],
    momentum: Sequence[Tensor],
    tau: Sequence[Tensor],
    g: Sequence[Tensor],
    v: Sequence[Tensor],
    grads: Sequence[Tensor],
    rows: Sequence[int],
    burn_in: bool,
    lr: float,
    mdecay: float,
    scale_grad: float,
    eps: float,
    seed: int,
    step: int,
) -> None:
    """Changes weights and momentum, and tau, g and v while ``burn_in``. Noise is that of row ``rows[k]``."""
    for w, m, t, mean, square, grad, row in zip(weights, momentum, tau, g, v, grads, rows, strict=True):
        gradient = grad * scale_grad
        if burn_in:
            _adapt(gradient, t, mean, square, eps)
        scale = 1 / (philox.root(square) + eps)
        variance = scale * (2 * lr * lr * mdecay) - lr * lr * (lr * lr)
        variance = torch.where(variance > LEAST_VARIANCE, variance, LEAST_VARIANCE)
        like = w.new_empty(1).expand(1, w.numel())
        z = philox.philox(like, None, seed, row, step, True).reshape(w.shape)
        m.copy_(((m - (scale * gradient) * (lr * lr)) - m * mdecay) + philox.root(variance) * z)
        w.add_(m)
