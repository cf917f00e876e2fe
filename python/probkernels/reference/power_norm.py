"""PowerNorm in plain torch (Shen et al., ICML 2020, arXiv:2003.07845).

Rows n = 1..N are tokens, features c = 1..C. Group scaling gives z from x, then

    x_hat = z / sqrt(psi2 + eps)          y = weight x_hat + bias          mean_sq = mean over valid rows of z^2

with psi2 the running mean square (PN) or mean_sq itself (PN-V). The exact gradient of PN-V subtracts a term with the
coefficient Lambda = mean(g x_hat), g = weight grad_y. PN's backward uses a running estimate nu of Lambda instead.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _accumulate(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _group_scale(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """z = x r and r, where r = 1 / rms of each group of each token, expanded to one entry for each feature. groups = 0:
    no scaling."""
    if groups == 0:
        return x, torch.ones_like(x)
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    r = torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    return (grouped * r).reshape(x.shape), r.expand_as(grouped).reshape(x.shape)


def _through_group_scale(grad_z: Tensor, z: Tensor, r: Tensor, groups: int) -> Tensor:
    if groups == 0:
        return grad_z
    product = (grad_z * z).reshape(*z.shape[:-1], groups, z.shape[-1] // groups)
    along = product.mean(-1, keepdim=True).expand_as(product).reshape(z.shape)
    return r * (grad_z - z * along)


def _valid(x: Tensor, pad_mask: Tensor | None) -> Tensor:
    """(..., 1) bool, True where a row is not padding."""
    if pad_mask is None:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)[..., None]
    return ~pad_mask[..., None]


def _sum_rows(t: Tensor) -> Tensor:
    return t.reshape(-1, t.shape[-1]).sum(0)


def _mean_rows(t: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid rows. NaN if there are none, as in torch.mean."""
    return _sum_rows(torch.where(valid, t, 0)) / valid.sum().to(t.dtype)


def power_norm_stats(x: Tensor, pad_mask: Tensor | None, groups: int, eps: float) -> Tensor:
    """Mean square of each feature over valid rows: x (..., C), pad_mask (...) -> (C)."""
    z, _ = _group_scale(_accumulate(x), groups, eps)
    return _mean_rows(z.square(), _valid(x, pad_mask))


def power_norm_stats_bwd(x: Tensor, grad_mean_sq: Tensor, pad_mask: Tensor | None, groups: int, eps: float) -> Tensor:
    """Gradient of power_norm_stats: grad_mean_sq (C) -> grad_x (..., C)."""
    z, r = _group_scale(_accumulate(x), groups, eps)
    valid = _valid(x, pad_mask)
    grad_z = torch.where(valid, 2 * z * grad_mean_sq / valid.sum(), 0)
    return _through_group_scale(grad_z, z, r, groups).to(x.dtype)


def power_norm_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    psi2: Tensor,
    nu: Tensor | None,
    pad_mask: Tensor | None,
    groups: int,
    eps: float,
    batch_scale: bool,
    pads_learn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (..., C), weight, bias, psi2 (C) -> y (..., C), mean_sq (C), and the psi2 and nu (C; (0) for None) it used.

    nu and batch_scale change only the backward. Padding rows of y are constants unless ``pads_learn``.
    """
    z, _ = _group_scale(_accumulate(x), groups, eps)
    y = z / torch.sqrt(psi2 + eps)
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    y, valid = y.to(x.dtype), _valid(x, pad_mask)
    if pad_mask is not None and not pads_learn:
        y = torch.where(valid, y, y.detach())
    return y, _mean_rows(z.square(), valid), psi2.clone(), psi2.new_empty(0) if nu is None else nu.clone()


def power_norm_bwd(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    psi2: Tensor,
    scale2: Tensor,
    nu: Tensor | None,
    pad_mask: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PN's backward: grad_x (..., C), grad_weight, grad_bias and grad_nu (C).

    a = g - nu x_hat and grad_z = a / sqrt(scale2 + eps), padding rows excluded everywhere. grad_nu = -mean(a x_hat),
    so that nu <- nu - (1 - alpha) grad_nu is the paper's update.
    """
    z, r = _group_scale(_accumulate(x), groups, eps)
    valid = _valid(x, pad_mask)
    grad_y = torch.where(valid, _accumulate(grad_y), 0)
    x_hat = torch.where(valid, z / torch.sqrt(psi2 + eps), 0)
    g = grad_y if weight is None else grad_y * weight
    a = g if nu is None else g - nu * x_hat
    grad_x = _through_group_scale(a / torch.sqrt(scale2 + eps), z, r, groups)
    grad_x = torch.where(valid, grad_x, 0).to(x.dtype)
    return grad_x, _sum_rows(grad_y * x_hat), _sum_rows(grad_y), -_mean_rows(a * x_hat, valid)


def power_norm_v_fwd(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, pad_mask: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """PN-V: normalizes by the batch's own mean square. x (..., C) -> y (..., C), mean_sq (C)."""
    mean_sq = power_norm_stats(x, pad_mask, groups, eps)
    y = power_norm_fwd(x, weight, bias, mean_sq, None, pad_mask, groups, eps, False, False)[0]
    return y, mean_sq


def power_norm_v_bwd(
    x: Tensor, grad_y: Tensor, weight: Tensor | None, psi2: Tensor, pad_mask: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PN-V's exact gradient, with psi2 = mean_sq: grad_x (..., C), grad_weight and grad_bias (C). Padding adds
    nothing."""
    z, r = _group_scale(_accumulate(x), groups, eps)
    valid = _valid(x, pad_mask)
    grad_y = torch.where(valid, _accumulate(grad_y), 0)
    x_hat = torch.where(valid, z / torch.sqrt(psi2 + eps), 0)
    g = grad_y if weight is None else grad_y * weight
    lam = _sum_rows(g * x_hat) / valid.sum().to(z.dtype)
    grad_x = _through_group_scale((g - lam * x_hat) / torch.sqrt(psi2 + eps), z, r, groups)
    grad_x = torch.where(valid, grad_x, 0).to(x.dtype)
    return grad_x, _sum_rows(grad_y * x_hat), _sum_rows(grad_y)
