"""Weighted sums of RBF kernels and their gradients, in plain torch: the kernel matrix is stored."""

from __future__ import annotations

import torch
from torch import Tensor


def half_square_distances(x: Tensor, points: Tensor) -> Tensor:
    """-|x - z|^2 / 2 of all pairs: x (..., M, D), points (..., N, D) -> (..., M, N). Differences keep all digits."""
    found = torch.zeros((), dtype=x.dtype, device=x.device)
    for a, b in zip(x.unbind(-1), points.unbind(-1), strict=True):
        found = found - (a[..., :, None] - b[..., None, :]).square() / 2
    return found


def rbf_mean(x: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """x (F, M, D), points (F, N, D), weights (F, N) -> values (F, M) and gradients with respect to x (F, M, D).

    g(x) = sum_i w_i exp(-|x - z_i|^2 / 2), grad g(x) = sum_i w_i exp(-|x - z_i|^2 / 2) (z_i - x).
    """
    kernel = half_square_distances(x, points).exp() * weights[:, None]
    value = kernel.sum(-1)
    with torch.autocast(x.device.type, enabled=False):
        return value, kernel @ points - value[..., None] * x
