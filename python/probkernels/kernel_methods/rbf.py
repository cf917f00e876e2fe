"""Sums of RBF kernels, such as the posterior mean of a Gaussian process, and their gradients, tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._core import checks
from .._core.errors import message

ROWS, COLUMNS = 512, 2048  # of the largest tile of the kernel matrix


def rbf_kernel(x: Tensor, z: Tensor, lengthscale: float | Tensor, variance: float | Tensor) -> Tensor:
    """The RBF kernel matrix k(x, z) = variance * exp(-|x - z|^2 / (2 lengthscale^2)).

    Args:
        x: (..., M, D) points, float32 or float64.
        z: (..., N, D) points of the same dtype.
        lengthscale: positive number, or a tensor (..., 1, 1): one for each matrix.
        variance: a number, or a tensor that broadcasts with the result.

    Returns:
        (..., M, N) kernel matrix.

    Raises:
        TypeError, ValueError: a dtype or shape is wrong, or a lengthscale is not positive.

    Example:
        >>> import torch
        >>> from probkernels.kernel_methods import rbf_kernel
        >>> rbf_kernel(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]), 1.0, 2.0)
        tensor([[2.0000, 1.2131]])
    """
    for name, value in (("x", x), ("z", z)):
        checks.wide_float_tensor("rbf_kernel", name, value)
    if x.ndim < 2 or z.ndim < 2 or x.shape[-1] != z.shape[-1] or x.dtype != z.dtype:
        expected = "shape (..., N, D) with the D and the dtype of 'x'"
        raise ValueError(message("rbf_kernel", "z", expected, f"{checks.describe(z)} beside {checks.describe(x)}"))
    _check_lengthscale("rbf_kernel", lengthscale)
    if isinstance(lengthscale, Tensor) and lengthscale.shape[-2:].numel() > 1:
        got = f"shape {tuple(lengthscale.shape)}"
        hint = "divide 'x' and 'z' by lengthscales of their columns"
        raise ValueError(message("rbf_kernel", "lengthscale", "a number, or shape (..., 1, 1)", got, hint))
    center = z.detach().mean(-2, keepdim=True)
    u, w = (x - center) / lengthscale, (z - center) / lengthscale
    return variance * _exponent(u, w, _can_expand(u, w)).exp()


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
        >>> from probkernels.kernel_methods import rbf_mean
        >>> x, points = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]])
        >>> value, grad = rbf_mean(x, points, torch.tensor([2.0]), 1.0, 1.0)
        >>> value, grad.squeeze()
        (tensor([2.0000, 1.2131]), tensor([ 0.0000, -1.2131]))
    """
    _check(x, points, weights)
    _check_lengthscale("rbf_mean", lengthscale)
    single, weights = weights.ndim == 1, weights if weights.ndim == 2 else weights[None]
    functions = len(weights)
    scale = _of_functions("lengthscale", lengthscale, functions, x)[:, None, None]
    weights = weights * _of_functions("variance", variance, functions, x)[:, None]
    center = points.detach().mean(0)  # smaller numbers, smaller rounding errors; the distances stay the same
    u, z = ((x - center) / scale).expand(functions, -1, -1), (points - center) / scale
    at_once = max(1, ROWS * COLUMNS // max(1, min(x.shape[-2], ROWS) * min(len(points), COLUMNS)))
    parts = [_sums(*part) for part in zip(*(t.split(at_once) for t in (u, z, weights)), strict=True)]
    value = torch.cat([total for total, _ in parts])
    grad = torch.cat([pulled for _, pulled in parts]).sub(value[..., None] * u) / scale
    return (value[0], grad[0]) if single else (value, grad)


def _sums(u: Tensor, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of weighted kernels (F, M), and of weighted kernels times points (F, M, D), over all points."""
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (u, z, weights))
    expand = _can_expand(u, z)
    columns = list(zip(z.split(COLUMNS, 1), weights.split(COLUMNS, 1), strict=True))
    totals, pulls = [], []
    for rows in u.split(ROWS, 1):
        total, pulled = u.new_zeros(rows.shape[:2]), u.new_zeros(rows.shape)
        for part, weight in columns:
            if keep:
                found = checkpoint(_tile, rows, part, weight, expand, use_reentrant=False, preserve_rng_state=False)
            else:
                found = _tile(rows, part, weight, expand)
            total, pulled = total + found[0], pulled + found[1]
        totals.append(total)
        pulls.append(pulled)
    return torch.cat(totals, 1), torch.cat(pulls, 1)


def _tile(u: Tensor, z: Tensor, weights: Tensor, expand: bool) -> tuple[Tensor, Tensor]:
    columns = torch.cat([torch.ones_like(weights[..., None]), z], -1) * weights[..., None]
    found = _exponent(u, z, expand).exp_() @ columns  # both sums in one product
    return found[..., 0], found[..., 1:]


def _exponent(u: Tensor, z: Tensor, expand: bool) -> Tensor:
    """-|u - z|^2 / 2 of all pairs, by one matrix product if ``expand``."""
    if expand:
        half_u, half_z = (t.square().sum(-1, keepdim=True) / 2 for t in (u, z))
        left = torch.cat([u, -half_u, torch.ones_like(half_u)], -1)
        return left @ torch.cat([z, torch.ones_like(half_z), -half_z], -1).mT
    found = torch.zeros((), dtype=u.dtype, device=u.device)
    for a, b in zip(u.unbind(-1), z.unbind(-1), strict=True):
        found = found - (a[..., :, None] - b[..., None, :]).square() / 2
    return found


def _can_expand(u: Tensor, z: Tensor) -> bool:
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


def _check_lengthscale(op: str, value: float | Tensor) -> None:
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
