"""Sums of RBF kernels, such as the posterior mean of a Gaussian process, and their gradients, tile by tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op, carries_gradient
from ..reference import rbf_mean as reference

__all__ = ["rbf_mean"]

KINDS = ("cpu", "triton")
DTYPES = (torch.float32, torch.float64)
ROWS, COLUMNS = 512, 2048  # of the largest tile of the kernel matrix in torch
TILE, LANES = 128, 16  # points of a tile of the C++ kernel; its sums come in whole lanes

# --- kernels ---


def _factors(u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """left (..., M, D + 2) and right (..., N, D + 2), whose inner products are -|u - z|^2 / 2."""
    half_u, half_z = (t.square().sum(-1, keepdim=True) / 2 for t in (u, z))
    left = torch.cat([u, -half_u, torch.ones_like(half_u)], -1)
    return left, torch.cat([z, torch.ones_like(half_z), -half_z], -1)


def _columns(z: Tensor, weights: Tensor) -> Tensor:
    """What a kernel is multiplied with: its weight, and its weight times the point, (..., N, 1 + D)."""
    return torch.cat([torch.ones_like(weights[..., None]), z], -1) * weights[..., None]


def _cpu(run: Backend, left: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    (functions, rows, depth), (_, points, width) = left.shape, columns.shape
    tiles, padded = -(-points // TILE), -(-width // LANES) * LANES
    pad = torch.nn.functional.pad
    right = pad(right, (0, 0, 0, tiles * TILE - points)).unflatten(1, (tiles, TILE)).mT.contiguous()
    columns = pad(columns, (0, padded - width, 0, tiles * TILE - points))
    sums = left.new_zeros(functions, rows, padded)
    sizes = functions, rows, tiles, depth, padded
    run.launch("rbf_mean", DTYPE_CODE[left.dtype], left, right, columns, sums, *sizes)
    return sums[..., :width]


def _triton(left: Tensor, right: Tensor, columns: Tensor) -> Tensor:
    from ..triton_kernels import rbf_mean as kernels  # imports triton, which a CPU machine may not have

    sums = left.new_empty(*left.shape[:2], columns.shape[2])
    kernels.rbf_mean(left, right, columns, sums)
    return sums


def _kernel(run: Backend, x: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    if not checks.readable(x) or can_expand(x, points):
        factors = *_factors(x, points), _columns(points, weights)
        sums = _triton(*factors) if run.kind == "triton" else _cpu(run, *factors)
        return sums[..., 0].contiguous(), sums[..., 1:] - sums[..., :1] * x
    parts = [reference.rbf_mean(rows, points, weights) for rows in x.split(ROWS, 1)]
    return torch.cat([value for value, _ in parts], 1), torch.cat([grad for _, grad in parts], 1)


# --- the op ---


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 4), (2, 5, 4), (2, 5)
    return [tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes)]


OP = Op(
    "rbf_mean",
    "(Tensor x, Tensor points, Tensor weights) -> (Tensor, Tensor)",
    reference=reference.rbf_mean,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda x, *_: (x.new_empty(x.shape[:2]), x.new_empty(x.shape)),
    examples=_examples,
    dtypes=DTYPES,
)

# --- the public function ---


def rbf_mean(
    x: Tensor, points: Tensor, weights: Tensor, lengthscale: float | Tensor, variance: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sums of RBF kernels and their gradients: posterior means of Gaussian processes.

    g_f(x) = sum_i weights[f, i] k_f(x, points[i]), with k_f(x, z) = variance_f exp(-|x - z|^2 / (2 lengthscale_f^2)).

    The kernel matrix is computed in tiles and never stored. Outputs are differentiable with respect to all tensors;
    the backward pass computes the tiles again.

    Args:
        x: (M, D) points for all functions, or (F, M, D) points for each function; float32 or float64.
        points: (N, D) centers of the kernels.
        weights: (F, N) weights of F functions, or (N,) for one function.
        lengthscale: positive number, or (F,).
        variance: number, or (F,).

    Returns:
        Values (F, M) and gradients with respect to x (F, M, D); (M,) and (M, D) for weights (N,).

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or a lengthscale is not positive.

    Example:
        >>> import torch
        >>> from probkernels.ops import rbf_mean
        >>> x, points = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]])
        >>> value, grad = rbf_mean(x, points, torch.tensor([2.0]), 1.0, 1.0)
        >>> value, grad.squeeze()
        (tensor([2.0000, 1.2131]), tensor([ 0.0000, -1.2131]))
    """
    _check(x, points, weights)
    check_lengthscale("rbf_mean", lengthscale)
    single, weights = weights.ndim == 1, weights if weights.ndim == 2 else weights[None]
    functions = len(weights)
    scale = _of_functions("lengthscale", lengthscale, functions, x)[:, None, None]
    weights = weights * _of_functions("variance", variance, functions, x)[:, None]
    center = points.detach().mean(0)  # smaller numbers, smaller rounding errors; the distances stay the same
    u, z = ((x - center) / scale).expand(functions, -1, -1), (points - center) / scale
    if any(carries_gradient(t) for t in (u, z, weights)) and torch.is_grad_enabled():
        value, grad = _differentiable(u, z, weights)
    else:
        value, grad = OP.call(u.contiguous(), z.contiguous(), weights.contiguous())
    grad = grad / scale
    return (value[0], grad[0]) if single else (value, grad)


def _differentiable(u: Tensor, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients in tiles of torch, which the backward pass computes again."""
    at_once = max(1, ROWS * COLUMNS // max(1, min(u.shape[-2], ROWS) * min(z.shape[-2], COLUMNS)))
    parts = [_sums(*part) for part in zip(*(t.split(at_once) for t in (u, z, weights)), strict=True)]
    value = torch.cat([total for total, _ in parts])
    return value, torch.cat([pulled for _, pulled in parts]).sub(value[..., None] * u)


def _sums(u: Tensor, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of weighted kernels (F, M), and of weighted kernels times points (F, M, D), over all points."""
    expand = can_expand(u, z)
    columns = list(zip(z.split(COLUMNS, 1), weights.split(COLUMNS, 1), strict=True))
    totals, pulls = [], []
    for rows in u.split(ROWS, 1):
        total, pulled = u.new_zeros(rows.shape[:2]), u.new_zeros(rows.shape)
        for part, weight in columns:
            found = checkpoint(_tile, rows, part, weight, expand, use_reentrant=False, preserve_rng_state=False)
            total, pulled = total + found[0], pulled + found[1]
        totals.append(total)
        pulls.append(pulled)
    return torch.cat(totals, 1), torch.cat(pulls, 1)


def _tile(u: Tensor, z: Tensor, weights: Tensor, expand: bool) -> tuple[Tensor, Tensor]:
    found = exponents(u, z, expand).exp_() @ _columns(z, weights)  # both sums in one product
    return found[..., 0], found[..., 1:]


def exponents(u: Tensor, z: Tensor, expand: bool) -> Tensor:
    """-|u - z|^2 / 2 of all pairs, by one matrix product if ``expand``."""
    if not expand:
        return reference.half_square_distances(u, z)
    left, right = _factors(u, z)
    return left @ right.mT


def can_expand(u: Tensor, z: Tensor) -> bool:
    """Whether |u|^2 - 2 u z + |z|^2 loses few digits: for points that are not too far from their center."""
    reach = max(float(t.detach().square().sum(-1).max()) if t.numel() else 0.0 for t in (u, z))
    return reach <= 0.25 / torch.finfo(u.dtype).eps ** 0.5


def _of_functions(name: str, value: float | Tensor, functions: int, like: Tensor) -> Tensor:
    """A hyperparameter as a tensor (F,)."""
    found = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if found.ndim > 1 or (found.ndim == 1 and len(found) not in (1, functions)):
        got = f"shape {tuple(found.shape)}"
        raise ValueError(message("rbf_mean", name, f"a number, or shape ({functions},)", got))
    return found.expand(functions)


def check_lengthscale(op: str, value: float | Tensor) -> None:
    found = torch.as_tensor(value).detach()
    if checks.readable(found) and not (found > 0).all():
        raise ValueError(message(op, "lengthscale", "positive numbers", checks.offender(found, ~(found > 0))))


def _check(x: Tensor, points: Tensor, weights: Tensor) -> None:
    op = "rbf_mean"
    for name, value in (("x", x), ("points", points), ("weights", weights)):
        checks.wide_float_tensor(op, name, value)
        if value.dtype != x.dtype:
            raise TypeError(message(op, name, f"the dtype of 'x' ({x.dtype})", str(value.dtype)))
        checks.same_device(op, name, value, x, "x")
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(message(op, "points", "shape (N, D)", f"shape {tuple(points.shape)}"))
    if weights.ndim not in (1, 2) or weights.shape[-1] != len(points):
        got = f"shape {tuple(weights.shape)}"
        raise ValueError(message(op, "weights", f"shape ({len(points)},) or (F, {len(points)})", got))
    functions = (1,) if weights.ndim == 1 else (1, len(weights))
    fits = x.ndim == 2 or (x.ndim == 3 and weights.ndim == 2 and len(x) in functions)
    if not fits or x.shape[-1] != points.shape[1]:
        expected = f"shape (M, {points.shape[1]})" + (f" or ({functions[-1]}, M, D)" if weights.ndim == 2 else "")
        raise ValueError(message(op, "x", expected, f"shape {tuple(x.shape)}"))
