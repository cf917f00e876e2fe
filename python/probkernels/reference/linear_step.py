"""A step of a sampler: linear combinations of tensors, and of noise by counter; and the dots that are the gradient of
their coefficients. In plain torch, to the bit what the kernels compute: products and sums are rounded one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import philox


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _noise(x: Tensor, seeds: Tensor | None, seed: int, row: int, step: int) -> Tensor:
    """(rows, elements) normal numbers in the dtype that x (rows, ...) is computed in."""
    like = torch.empty(1, dtype=_wide(x), device=x.device).expand(x.shape)
    return philox.philox(like, seeds, seed, row, step, True).reshape(x.shape[0], -1 if x.numel() else 0)


def linear_step(
    x0: Tensor,
    x1: Tensor | None,
    x2: Tensor | None,
    x3: Tensor | None,
    x4: Tensor | None,
    x5: Tensor | None,
    x6: Tensor | None,
    x7: Tensor | None,
    coefficients: Tensor,
    noise: Tensor | None,
    seeds: Tensor | None,
    seed: int,
    row: int,
    step: int,
) -> Tensor:
    """y_o = sum_i c_oi x_i + d_o z, (outputs, rows, ...): coefficients (outputs, inputs) or (rows, outputs, inputs)."""
    wide, rows = _wide(x0), x0.shape[0]
    flat = [x.to(wide).reshape(rows, -1 if x.numel() else 0) for x in (x0, x1, x2, x3, x4, x5, x6, x7) if x is not None]
    c = coefficients.to(wide).reshape(-1, *coefficients.shape[-2:]).permute(1, 2, 0)[..., None]  # (out, in, rows, 1)
    total = c[:, 0] * flat[0]
    for i, x in enumerate(flat[1:], 1):
        total = total + c[:, i] * x
    if noise is not None:
        d = noise.to(wide).reshape(-1, noise.shape[-1]).T[..., None]
        total = total + d * _noise(x0, seeds, seed, row, step)
    return total.reshape(coefficients.shape[-2], *x0.shape).to(x0.dtype)


def linear_step_dots(
    y: Tensor,
    x0: Tensor,
    x1: Tensor | None,
    x2: Tensor | None,
    x3: Tensor | None,
    x4: Tensor | None,
    x5: Tensor | None,
    x6: Tensor | None,
    x7: Tensor | None,
    noisy: bool,
    by_row: bool,
    seeds: Tensor | None,
    seed: int,
    row: int,
    step: int,
) -> Tensor:
    """<y_o, x_i>, and <y_o, z> last if ``noisy``: float64 (outputs, inputs [+ 1]), or (rows, ...) if ``by_row``."""
    rows = x0.shape[0]
    flat = [x.double().reshape(rows, -1 if x.numel() else 0) for x in (x0, x1, x2, x3, x4, x5, x6, x7) if x is not None]
    if noisy:
        flat.append(_noise(x0, seeds, seed, row, step).double())
    along = y.double().reshape(y.shape[0], rows, -1 if y.numel() else 0)
    dots = torch.einsum("orn,irn->roi", along, torch.stack(flat))
    return dots if by_row else dots.sum(0)
