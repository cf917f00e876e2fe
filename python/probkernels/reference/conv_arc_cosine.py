"""Kernels of infinitely wide convolutional networks, layer by layer, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .arc_cosine import activated, activated_diagonal, dense_bwd, lengths


def box(k: Tensor) -> Tensor:
    """The mean over 3 x 3 neighbors of maps (H, W, ...), with zeros around them: always a ninth of the sum."""
    for dim in (0, 1):
        size, edge = k.shape[dim], torch.zeros_like(k.narrow(dim, 0, 1))
        wide = torch.cat([edge, k, edge], dim)
        k = wide.narrow(dim, 0, size) + wide.narrow(dim, 1, size) + wide.narrow(dim, 2, size)
    return k / 9


def mean(k: Tensor) -> Tensor:
    """The mean over all pixels of maps (H, W, ...)."""
    return k.mean((0, 1))


def diagonals(x: Tensor, weights: Tensor, biases: Tensor, activation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (M, C, H, W) -> lengths (M, L, H, W), and diagonals (M,) of both kernels."""
    k = weights[0] * box(x.square().mean(1).permute(1, 2, 0)) + biases[0]
    tangent, found = k, []
    for layer in range(1, len(weights)):
        pool = box if layer + 1 < len(weights) else mean
        found.append(lengths(k, activation))
        value, slope = activated_diagonal(k, activation)
        k = weights[layer] * pool(value) + biases[layer]
        tangent = k + weights[layer] * pool(slope * tangent)
    return torch.stack(found).permute(3, 0, 1, 2), k, tangent


def conv_arc_cosine(
    x: Tensor, z: Tensor, left: Tensor, right: Tensor, weights: Tensor, biases: Tensor, activation: int, ntk: bool
) -> tuple[Tensor, Tensor]:
    """Images x (M, C, H, W) and z (N, C, H, W), lengths left (M, L, H, W) and right (N, L, H, W), variances (L + 1) ->
    both kernels (M, N). Without ``ntk``, the second result is empty."""
    k = weights[0] * box(x.permute(2, 3, 0, 1) @ z.permute(2, 3, 1, 0) / x.shape[1]) + biases[0]
    left, right = left.permute(1, 2, 3, 0), right.permute(1, 2, 3, 0)
    tangent = k
    for layer in range(1, len(weights)):
        pool = box if layer + 1 < len(weights) else mean
        value, slope = activated(k, left[layer - 1], right[layer - 1], activation)
        k = weights[layer] * pool(value) + biases[layer]
        if ntk:
            tangent = k + weights[layer] * pool(slope * tangent)
    return k, tangent if ntk else k.new_zeros(0)


def conv_arc_cosine_bwd(
    x: Tensor,
    z: Tensor,
    left: Tensor,
    right: Tensor,
    weights: Tensor,
    biases: Tensor,
    grad_nngp: Tensor,
    grad_ntk: Tensor,
    activation: int,
    ntk: bool,
) -> tuple[Tensor, ...]:
    """The gradients of x, z, left, right, weights and biases. ``box`` is its own transpose."""
    by_rows, by_columns = x.permute(2, 3, 0, 1), z.permute(2, 3, 0, 1)
    pixels = by_rows @ by_columns.mT / x.shape[1]
    left, right = left.permute(1, 2, 3, 0), right.permute(1, 2, 3, 0)
    inputs = [(weights[0] * box(pixels) + biases[0],) * 2]
    for layer in range(1, len(weights) - 1):
        value, slope = activated(inputs[-1][0], left[layer - 1], right[layer - 1], activation)
        k = weights[layer] * box(value) + biases[layer]
        inputs.append((k, k + weights[layer] * box(slope * inputs[-1][1])))
    grads = grad_nngp, grad_ntk if ntk else torch.zeros_like(grad_nngp)
    of_biases, found = [(grads[0] + grads[1]).sum()], []
    grad_k, grad_t = (g.expand_as(pixels) / pixels.shape[:2].numel() for g in grads)
    for layer in range(len(weights) - 1, 0, -1):
        grad_k, grad_t, *rest, _ = dense_bwd(
            grad_k, grad_t, *inputs[layer - 1], left[layer - 1], right[layer - 1], weights[layer], activation, False
        )
        of_biases.append((grad_k + grad_t).sum())
        grad_k, grad_t = box(grad_k), box(grad_t)
        found.append(rest)
    of_pixels = grad_k + grad_t
    of_left, of_right, of_weights = zip(*reversed(found), strict=True)
    return (
        (weights[0] * of_pixels @ by_columns / x.shape[1]).permute(2, 3, 0, 1),
        (weights[0] * of_pixels.mT @ by_rows / x.shape[1]).permute(2, 3, 0, 1),
        torch.stack(of_left).permute(3, 0, 1, 2),
        torch.stack(of_right).permute(3, 0, 1, 2),
        torch.stack([(of_pixels * pixels).sum(), *of_weights]),
        torch.stack(of_biases[::-1]),
    )
