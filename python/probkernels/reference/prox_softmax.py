"""The proximal softmax of groups of states, in plain torch: Newton's method on all unknowns at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import readable

ROUNDS = 100  # at most; 5 are usual
FLOOR = -1e30  # stands for the -infinity of a state that does not exist
SMALL = {torch.float64: 1e-16}  # a step with sum p step^2 below it was the last one; else 2e-8


def newton(shifted: Tensor, log_p: Tensor, curve: float) -> tuple[Tensor, Tensor]:
    """A step towards curve p + log p = shifted + multiplier, sum p = 1. Unknown are log p (..., n), the multiplier."""
    p = log_p.exp()
    share = 1 / (1 + curve * p)
    rest, rate = shifted - curve * p - log_p, p * share
    multiplier = (1 - p.sum(-1, keepdim=True) - (rate * rest).sum(-1, keepdim=True)) / rate.sum(-1, keepdim=True)
    return share * (rest + multiplier), p


def prox_softmax(y: Tensor, alpha: float) -> Tensor:
    """y (..., n) -> p (..., n): argmin over the simplex of |p - y|^2 / 2 + alpha (sum p log p - |p|^2 / 2).

    That is (1 - alpha) p + alpha log p = y + a multiplier for each group. It starts from the softmax of y over a
    temperature. Two more steps are recorded: they have the derivatives of the solution up to the third.
    """
    curve, warmth = (1 - alpha) / alpha, alpha + (1 - alpha) / y.shape[-1]
    shifted = y - y.detach().amax(-1, keepdim=True)
    log_p = torch.log_softmax((shifted.detach() / warmth).clamp(min=FLOOR), -1)
    shifted = (shifted / alpha).clamp(min=FLOOR)
    for _ in range(ROUNDS if curve > 0 else 0):
        step, p = newton(shifted.detach(), log_p, curve)
        log_p = (log_p + step).clamp(max=0)
        if readable(step) and not bool((((p + log_p.exp()) * step.square()).sum(-1) > SMALL.get(y.dtype, 2e-8)).any()):
            break
    for _ in range(2):
        log_p = log_p + newton(shifted, log_p, curve)[0]
    return log_p.exp()


def prox_softmax_bwd(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """The gradient of y. The Jacobian is diag(r) - r r^T / sum r with r = p / (alpha + (1 - alpha) p)."""
    rate = p / (alpha + (1 - alpha) * p)
    return rate * (grad - (rate * grad).sum(-1, keepdim=True) / rate.sum(-1, keepdim=True))
