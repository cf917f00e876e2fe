"""Checks of times and noise by value, where numbers can be looked at."""

from __future__ import annotations

from torch import Tensor

from .._core import checks
from .._core.errors import message

ROUNDING = 2**-8  # of a time in bfloat16


def outside(t: Tensor, t_max: float) -> Tensor:
    """Where times are outside 0 .. ``t_max``, or NaN. A schedule goes on smoothly there, so that a step number in place
    of a time would pass unnoticed."""
    return ~((t >= 0) & (t <= t_max * (1 + ROUNDING)))


def refuse_outside(op: str, t: Tensor, t_max: float) -> None:
    """Refuses times that are :func:`outside`."""
    wrong = outside(t.detach(), t_max)
    if bool(wrong.any()):
        hint = "the time after step i of a chain of N steps is (i + 1) / N"
        raise ValueError(message(op, "t", f"times within 0 .. {t_max}", checks.offender(t, wrong), hint))


def same_shape(op: str, noise: Tensor, x0: Tensor) -> None:
    """Refuses noise that would be broadcast: rows that share their noise are no independent draws."""
    if noise.shape != x0.shape:
        checks.shape(op, "noise", noise, x0.shape, "as the data")
