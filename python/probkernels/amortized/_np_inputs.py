"""Checks of the data that neural processes take: contexts and targets, padded or not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


class Points(NamedTuple):
    """Points of a batch of tasks: x (B, n, x_dim), y (B, n, y_dim), and a mask (B, n), None if all exist."""

    x: Tensor
    y: Tensor
    mask: Tensor | None

    def and_more(self, other: Points) -> Points:
        """These points, then others of the same tasks."""
        masks = None
        if self.mask is not None or other.mask is not None:
            masks = torch.cat([_mask_of(self), _mask_of(other)], 1)
        return Points(torch.cat([self.x, other.x], 1), torch.cat([self.y, other.y], 1), masks)


def _mask_of(points: Points) -> Tensor:
    return points.x.new_ones(points.x.shape[:2], dtype=torch.bool) if points.mask is None else points.mask


def context(op: str, x: Tensor, y: Tensor, mask: Tensor | None, sizes: tuple[int, int], like: Tensor) -> Points:
    """The checked context points; each row of the batch must have one or more."""
    points = given(op, "ctx", x, y, mask, sizes, like)
    hint = "a neural process has no prediction without a context: give one point or more"
    if not x.shape[1]:
        raise ValueError(message(op, "x_ctx", "one point or more in each row", f"shape {tuple(x.shape)}", hint))
    if mask is not None and checks.readable(mask):
        empty = ~mask.any(1)
        if bool(empty.any()):
            got = f"row {int(empty.nonzero()[0])} of 'mask' without any True"
            raise ValueError(message(op, "mask", "one point or more in each row", got, hint))
    return points


def given(
    op: str, which: str, x: Tensor, y: Tensor, mask: Tensor | None, sizes: tuple[int, int], like: Tensor
) -> Points:
    """Checked points with zeros where the mask is False, so that padding of any value has no influence."""
    x = inputs(op, f"x_{which}", x, sizes[0], like)
    checks.float_tensor(op, f"y_{which}", y, checks.AS_TENSOR)
    wanted = x.shape[:2] if y.ndim == 2 and sizes[1] == 1 else (*x.shape[:2], sizes[1])
    checks.shape(op, f"y_{which}", y, wanted, f"for 'x_{which}' of shape {tuple(x.shape)}")
    _like(op, f"y_{which}", y, like)
    y = y[..., None] if y.ndim == 2 else y
    name = "mask" if which == "ctx" else "target_mask"
    if mask is not None:
        checks.bool_tensor(op, name, mask, "True marks points that exist")
        checks.shape(op, name, mask, x.shape[:2], f"for 'x_{which}' of shape {tuple(x.shape)}")
        checks.same_device(op, name, mask, x, f"x_{which}")
        x, y = (t.masked_fill(~mask[..., None], 0) for t in (x, y))
    for what, value in ((f"x_{which}", x), (f"y_{which}", y)):
        if checks.readable(value):
            checks.finite(op, what, value, f"hide missing points with '{name}'")
    return Points(x, y, mask)


def inputs(op: str, name: str, x: Tensor, size: int, like: Tensor) -> Tensor:
    """Checks x (B, n, size), of the dtype and the device of the model's parameter ``like``."""
    checks.float_tensor(op, name, x, checks.AS_TENSOR)
    if x.ndim != 3 or x.shape[-1] != size:
        raise ValueError(message(op, name, f"shape (B, n, {size})", f"shape {tuple(x.shape)}"))
    _like(op, name, x, like)
    return x


def targets(op: str, x: Tensor, size: int, rows: int, like: Tensor) -> Tensor:
    """Checks targets (rows, m, size). A target that is NaN gets a prediction of NaN, which touches no other."""
    x = inputs(op, "x_tar", x, size, like)
    if len(x) != rows:
        raise ValueError(message(op, "x_tar", f"{rows} rows, as in 'x_ctx'", f"shape {tuple(x.shape)}"))
    return x


def _like(op: str, name: str, value: Tensor, like: Tensor) -> None:
    if value.dtype != like.dtype:
        hint = f"{name}.to({like.dtype}), or model.to({value.dtype})"
        raise TypeError(message(op, name, f"the dtype of the model, {like.dtype}", str(value.dtype), hint))
    checks.same_device(op, name, value, like, "model")
