"""Kernels of infinitely wide fully connected networks, layer by layer, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELU, ERF, HEAVISIDE = 0, 1, 2


def safe_inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 with gradient 0 where x is 0."""
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def clamped(cosine: Tensor) -> Tensor:
    """Cosines of at most 1 - eps, so that slopes stay finite. The gradient passes as if nothing were clamped."""
    limit = 1 - torch.finfo(cosine.dtype).eps
    return cosine + (cosine.clamp(-limit, limit) - cosine).detach()


def activated(k: Tensor, left: Tensor, right: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    """The kernel (..., M, N) behind an activation, and its slope: the factor of the tangent kernel.

    left (..., M) and right (..., N) are the lengths of the points, see ``lengths``.
    """
    scale = left[..., :, None] * right[..., None, :]
    inverse = safe_inverse(left)[..., :, None] * safe_inverse(right)[..., None, :]
    cosine = clamped((2 * k if activation == ERF else k) * inverse)
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    if activation == ERF:
        return 2 / math.pi * torch.asin(cosine), 4 / math.pi * inverse / sine
    share = (math.pi / 2 + torch.asin(cosine)) / (2 * math.pi)  # (pi - angle) / (2 pi)
    if activation == HEAVISIDE:
        return scale * share, 1 / (2 * math.pi * sine)
    return scale * (sine / (2 * math.pi) + cosine * share), share


def activated_diagonal(k: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    """``activated`` for pairs of equal points, where the cosine is 1 and acos has no derivative."""
    if activation == ERF:
        return 2 / math.pi * torch.asin(2 * k / (1 + 2 * k)), 4 / math.pi * (1 + 4 * k).rsqrt()
    return k / 2, torch.full_like(k, 0.5)


def lengths(k: Tensor, activation: int) -> Tensor:
    """What the activation divides kernels by: sqrt(k), and sqrt(1 + 2 k) for erf. Gradient 0 at 0."""
    if activation == ERF:
        return (1 + 2 * k).sqrt()
    return torch.where(k > 0, torch.where(k > 0, k, 1.0).sqrt(), 0.0)


def diagonals(
    k: Tensor, weights: Tensor, biases: Tensor, activation: int, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """k (..., M), the diagonal of the inputs' kernel -> lengths (..., L, M), and diagonals (..., M) of both kernels."""
    k = weights[0] * k + biases[0]
    tangent, found = k, []
    for layer in range(1, len(weights)):
        found.append(lengths(k, activation))
        value, slope = activated_diagonal(k, activation)
        k, tangent = dense(
            k, tangent, value, slope, weights[layer], biases[layer], residual and layer + 1 < len(weights)
        )
    return torch.stack(found, -2), k, tangent


def dense(
    k: Tensor, tangent: Tensor, value: Tensor, slope: Tensor, weight: Tensor, bias: Tensor, skip: bool
) -> tuple[Tensor, Tensor]:
    """The dense layer behind an activation, and the sum with its input if ``skip``."""
    new = weight * value + bias
    new_tangent = new + weight * slope * tangent
    return (k + new, tangent + new_tangent) if skip else (new, new_tangent)


def arc_cosine(
    k: Tensor,
    left: Tensor,
    right: Tensor,
    weights: Tensor,
    biases: Tensor,
    diagonal: Tensor,
    activation: int,
    residual: bool,
    ntk: bool,
) -> tuple[Tensor, Tensor]:
    """k (B, M, N), lengths left (B, L, M) and right (B, L, N), variances (L + 1) -> both kernels (B, M, N).

    ``diagonal`` (B, 2, M) replaces the diagonals of the results; (B, 2, 0) leaves them. Without ``ntk``, the second
    result is empty.
    """
    k = weights[0] * k + biases[0]
    tangent = k
    for layer in range(1, len(weights)):
        value, slope = activated(k, left[:, layer - 1], right[:, layer - 1], activation)
        k, tangent = dense(
            k, tangent, value, slope, weights[layer], biases[layer], residual and layer + 1 < len(weights)
        )
    if diagonal.shape[-1]:
        places = torch.eye(k.shape[-1], dtype=torch.bool, device=k.device)
        k = torch.where(places, diagonal[:, 0, :, None], k)
        tangent = torch.where(places, diagonal[:, 1, :, None], tangent)
    return k, tangent if ntk else k.new_zeros(0)


def arc_cosine_bwd(
    k: Tensor,
    left: Tensor,
    right: Tensor,
    weights: Tensor,
    biases: Tensor,
    diagonal: Tensor,
    grad_nngp: Tensor,
    grad_ntk: Tensor,
    activation: int,
    residual: bool,
    ntk: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of k, left, right, weights and biases. That of ``diagonal`` is the diagonal of those given."""
    inputs = [(weights[0] * k + biases[0],) * 2]
    for layer in range(1, len(weights) - 1):
        outputs = activated(inputs[-1][0], left[:, layer - 1], right[:, layer - 1], activation)
        inputs.append(dense(*inputs[-1], *outputs, weights[layer], biases[layer], residual))
    grad_k, grad_t = grad_nngp, grad_ntk if ntk else torch.zeros_like(k)
    if diagonal.shape[-1]:
        places = torch.eye(k.shape[-1], dtype=torch.bool, device=k.device)
        grad_k, grad_t = grad_k.masked_fill(places, 0), grad_t.masked_fill(places, 0)
    found = []
    for layer in range(len(weights) - 1, 0, -1):
        lengths_of = (left[:, layer - 1], right[:, layer - 1])
        skip = residual and layer + 1 < len(weights)
        grad_k, grad_t, *rest = dense_bwd(
            grad_k, grad_t, *inputs[layer - 1], *lengths_of, weights[layer], activation, skip
        )
        found.append(rest)
    grad_k = grad_k + grad_t
    of_left, of_right, of_weights, of_biases = zip(*reversed(found), strict=True)
    return (
        weights[0] * grad_k,
        torch.stack(of_left, 1),
        torch.stack(of_right, 1),
        torch.stack([(grad_k * k).sum(), *of_weights]),
        torch.stack([grad_k.sum(), *of_biases]),
    )


def dense_bwd(
    grad_k: Tensor,
    grad_t: Tensor,
    k: Tensor,
    t: Tensor,
    left: Tensor,
    right: Tensor,
    weight: Tensor,
    activation: int,
    skip: bool,
) -> tuple[Tensor, ...]:
    """Gradients of a layer's k, t, left, right, weight and bias."""
    factor = 2 if activation == ERF else 1
    scale, over_left, over_right = left[..., :, None] * right[..., None, :], safe_inverse(left), safe_inverse(right)
    inverse = over_left[..., :, None] * over_right[..., None, :]
    value, slope = activated(k, left, right, activation)
    raw = factor * k * inverse
    cosine = clamped(raw)
    over_sine = ((1 - cosine) * (1 + cosine)).rsqrt()
    grad_new = grad_k + grad_t
    grad_value, grad_slope = weight * grad_new, weight * grad_t * t
    by_scale = torch.zeros_like(k)
    along = by_scale
    if activation == ERF:
        along = grad_slope * slope
        grad_cosine = 2 / math.pi * grad_value * over_sine + along * cosine * over_sine.square()
    elif activation == RELU:
        grad_cosine = grad_value * scale * slope + grad_slope * over_sine / (2 * math.pi)
        by_scale = grad_value * (1 / over_sine / (2 * math.pi) + cosine * slope)
    else:
        grad_cosine = grad_value * scale * slope
        by_scale = grad_value * (math.pi / 2 + torch.asin(cosine)) / (2 * math.pi)
    turned = grad_cosine * raw + along
    of_left = (by_scale * right[..., None, :]).sum(-1) - turned.sum(-1) * over_left
    of_right = (by_scale * left[..., :, None]).sum(-2) - turned.sum(-2) * over_right
    of_k, of_t = factor * grad_cosine * inverse, weight * slope * grad_t
    of_k, of_t = (of_k + grad_k, of_t + grad_t) if skip else (of_k, of_t)
    return of_k, of_t, of_left, of_right, (grad_new * value + grad_t * t * slope).sum(), grad_new.sum()
