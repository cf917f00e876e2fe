"""Sums over log values in plain torch: what the sum units of a circuit compute, and how their flow runs back.

Every output is shifted by its own largest term. So an output loses nothing if it lies far below other outputs or its
weights are extreme, and -inf (an input of probability 0) never meets another infinity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INF = math.inf
LIFT = 64  # a weight of 2**±LIFT or beyond lends the exponential beside it so many powers of two


def _bounded(exponent: Tensor) -> Tensor:
    """Clamps exponents to the range of ``exp``: an input without weight may lie any distance above the sum."""
    return exponent.clamp(max=math.floor(math.log(torch.finfo(exponent.dtype).max)))


def _lift(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Powers of two that bring extreme weights nearer to 1, and their logarithms. Neither the scaled weights nor an
    exponential of minus the logarithm then overflows. 1 and 0 for ordinary weights and for weights of 0."""
    w = weights.detach()
    up, down = (w > 0) & (w < 2.0**-LIFT), (w > 2.0**LIFT) & w.isfinite()
    power = torch.ones_like(w).masked_fill(up, 2.0**LIFT).masked_fill(down, 2.0**-LIFT)
    log = torch.zeros_like(w).masked_fill(up, LIFT * math.log(2)).masked_fill(down, -LIFT * math.log(2))
    return power, log


def sum_layer(x: Tensor, weights: Tensor) -> Tensor:
    """x (G, I, B) log values, weights (G, O, I) -> y (G, O, B), y = log sum_i weights[g, o, i] exp(x[g, i, b])."""
    x, weights = x[:, None], weights[..., None]  # (G, 1, I, B), (G, O, I, 1)
    top = torch.where(weights > 0, x + weights.detach().log(), -INF).amax(2, keepdim=True).detach()
    top = torch.where(top.isinf(), 0.0, top)
    power, log = _lift(weights)
    shifted = torch.where(weights == 0, _bounded(x - top), x - top - log)  # 0 times infinity is no number
    total = (weights * power * shifted.exp()).sum(2)
    nothing = total == 0
    return torch.where(nothing, -INF, torch.where(nothing, 1.0, total).log() + top[:, :, 0])


def sum_layer_bwd(x: Tensor, weights: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x (G, I, B) and weights (G, O, I). An output of -inf has no gradient; a weight of 0 has its
    exact one.

    grad_x[i] = sum_o w[o, i] grad_y[o] exp(x[i] - y[o]) and grad_weights[o, i] = sum_b grad_y[o] exp(x[i] - y[o]). If
    ``grad_y`` is the flow of the outputs, grad_x is the flow of the inputs and weights * grad_weights that of the
    edges.
    """
    nothing = y == -INF
    y, grad_y = (torch.where(nothing, 0.0, t)[:, :, None] for t in (y, grad_y))  # (G, O, 1, B)
    power, log = _lift(weights[..., None])
    distance = x[:, None] - y
    share = weights[..., None] * power * _bounded(distance - log).exp()
    return (share * grad_y).sum(1), (_bounded(distance).exp() * grad_y).sum(3)
