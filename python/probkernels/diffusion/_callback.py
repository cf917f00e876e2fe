"""Calls the user's callback after a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.errors import message
from .._core.registry import numbers_known

Callback = Callable[[int, Tensor], None]


def show(op: str, callback: Callback, n: int, x: Tensor) -> None:
    """Calls it with a copy of the state x (B, *S): what it keeps does not change with the sample. A write raises,
    because it would be lost; torch counts no writes through ``.data`` or NumPy, so values are compared too."""
    copy = x.clone()
    callback(n, copy)
    counted = not copy.is_inference() and copy._version != 0
    if counted or not _same(copy, x):
        expected, hint = "a function that leaves x as it is", "work on x.clone()"
        raise ValueError(message(op, "callback", expected, f"one that wrote to it after step {n}", hint))


@torch.no_grad()
def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have equal values, with NaN equal to NaN, as far as values can be looked at."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return not numbers_known(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
