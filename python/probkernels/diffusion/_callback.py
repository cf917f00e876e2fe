"""Calls the user's callback after a step, and takes the changed state that it may return."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known

Callback = Callable[[int, Tensor], Tensor | None]


def show(op: str, callback: Callback, n: int, x: Tensor) -> Tensor | None:
    """Calls it with a copy of the state x (B, *S): what it keeps does not change with the sample. A write raises,
    because it would be lost; torch counts no writes through ``.data`` or NumPy, so values are compared too. Returns
    the state that is to replace x, if it gives one."""
    copy = x.clone()
    found = callback(n, copy)
    counted = not copy.is_inference() and copy._version != 0
    if counted or not _same(copy, x):
        expected, hint = "a function that leaves x as it is", "work on x.clone(), and return it"
        raise ValueError(message(op, "callback", expected, f"one that wrote to it after step {n}", hint))
    if found is None:
        return None
    expected = "a function that returns None or a changed x, in its shape and dtype"
    if not isinstance(found, Tensor) or found.dtype != x.dtype:
        raise TypeError(message(op, "callback", expected, checks.describe(found)))
    if found.shape != x.shape or found.device != x.device:
        raise ValueError(message(op, "callback", f"{expected}, {tuple(x.shape)}", checks.describe(found)))
    return found.clone() if found is copy else found


@torch.no_grad()
def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have equal values, with NaN equal to NaN, as far as values can be looked at."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return not numbers_known(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
