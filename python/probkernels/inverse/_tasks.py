"""What the tasks share: times for noise levels, copies of a batch, checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ..diffusion import Denoiser


def check_input(op: str, model: Denoiser, name: str, x: Tensor) -> None:
    """A denoiser, and finite floating-point data (B, *S)."""
    if not isinstance(model, Denoiser):
        hint = "wrap the network: Denoiser(net, process, pred=...)"
        raise TypeError(message(op, "model", "a Denoiser", checks.describe(model), hint))
    checks.float_tensor(op, name, x, "complex data go through torch.view_as_real")
    if x.ndim < 1 or not len(x):
        raise ValueError(message(op, name, "shape (B, *S), B >= 1", f"shape {tuple(x.shape)}", "one alone is x[None]"))
    checks.finite(op, name, x)


def time_of(op: str, model: Denoiser, name: str, rho: float) -> float:
    """The time at which the noise is ``rho`` times the signal."""
    checks.positive(op, name, rho)
    process = model.process
    low, high = (float(process.rho(t).detach()) for t in (process.t_min, process.t_max))
    if not low < rho <= high:
        expected = f"a level in ({low:g}, {high:g}], which the process reaches"
        raise ValueError(message(op, name, expected, repr(rho), "levels are relative to the data: sigma / alpha"))
    return min(float(process.t_of_rho(rho).detach()), process.t_max)


def noised(model: Denoiser, x: Tensor, t: float | Tensor, generator: torch.Generator | None) -> Tensor:
    """x_t (B, *S) with fresh noise."""
    return model.process.noised(x, t, normal(x, generator))


def normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise like x (B, *S)."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def repeated(value: Any, n: int, rows: int) -> Any:
    """A condition (rows, ...) for n copies of a batch, one batch after another. One row may stand for all."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    return value.repeat(n, *[1] * (value.ndim - 1))


def same_rows(op: str, name: str, value: Tensor, other: Tensor, of: str) -> None:
    """Raises unless two tensors have the same shape behind the batch."""
    if value.shape[1:] != other.shape[1:]:
        checks.shape(op, name, value, (len(value), *other.shape[1:]), f"as {of}")
