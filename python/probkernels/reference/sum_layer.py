"""Sums over log values in plain torch: what the sum units of a circuit compute, and how their flow runs back.

Every output is shifted by the largest input that it has a weight for. So nothing is lost however far below the others
an output lies, and -inf (an input of probability 0) never meets another infinity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INF = math.inf


def _bounded(exponent: Tensor) -> Tensor:
    """Exponents that ``exp`` can take: an input without weight may lie any distance above the sum."""
    return exponent.clamp(max=math.floor(math.log(torch.finfo(exponent.dtype).max)))


def sum_layer(x: Tensor, weights: Tensor) -> Tensor:
    """x (G, I, B) log values, weights (G, O, I) -> y (G, O, B), y = log sum_i weights[g, o, i] exp(x[g, i, b])."""
    x, weights = x[:, None], weights[..., None]  # (G, 1, I, B), (G, O, I, 1)
    top = torch.where(weights > 0, x, -INF).amax(2, keepdim=True).detach()
    top = torch.where(top.isinf(), 0.0, top)
    shifted = torch.where(weights == 0, _bounded(x - top), x - top)  # 0 times infinity is no number
    total = (weights * shifted.exp()).sum(2)
    nothing = total == 0
    return torch.where(nothing, -INF, torch.where(nothing, 1.0, total).log() + top[:, :, 0])


def sum_layer_bwd(x: Tensor, weights: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x (G, I, B) and weights (G, O, I): an output of -inf has none, a weight of 0 has its exact one.

    grad_x[i] = sum_o w[o, i] grad_y[o] exp(x[i] - y[o]) and grad_weights[o, i] = sum_b grad_y[o] exp(x[i] - y[o]). If
    ``grad_y`` is the outputs' flow, then grad_x is that of the inputs, and weights * grad_weights that of the edges.
    """
    nothing = y == -INF
    y, grad_y = (torch.where(nothing, 0.0, t)[:, :, None] for t in (y, grad_y))  # (G, O, 1, B)
    ratio = _bounded(x[:, None] - y).exp()
    return (weights[..., None] * ratio * grad_y).sum(1), (ratio * grad_y).sum(3)
