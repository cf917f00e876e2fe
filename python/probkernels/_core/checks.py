"""Argument checks shared by all public functions. Each raises TypeError (dtype, kind) or ValueError (shape, range)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .errors import message

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def describe(value: object) -> str:
    """How an error names what it got."""
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def float_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """``value`` is a float32, float64, float16 or bfloat16 tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(message(op, name, "a floating-point tensor", describe(value), hint))
    if value.dtype not in FLOATS:
        raise TypeError(message(op, name, "dtype float32, float64, float16 or bfloat16", str(value.dtype), hint))


def wide_float_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """``value`` is a float32 or float64 tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(message(op, name, "a floating-point tensor", describe(value), hint))
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(message(op, name, "dtype float32 or float64", str(value.dtype), hint))


def shape(op: str, name: str, value: torch.Tensor, expected: Sequence[int], like: str, hint: str = "") -> None:
    """``value`` has exactly the shape ``expected``; ``like`` says in words what it must match."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(message(op, name, f"shape {tuple(expected)} {like}", f"shape {tuple(value.shape)}", hint))


def bool_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """``value`` is a bool tensor."""
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.bool:
        raise TypeError(message(op, name, "a bool tensor", describe(value), hint))


def same_device(op: str, name: str, value: torch.Tensor, other: torch.Tensor, other_name: str) -> None:
    """``value`` lives where ``other`` lives."""
    if value.device != other.device:
        raise ValueError(message(op, name, f"the device of '{other_name}' ({other.device})", str(value.device)))


def positive(op: str, name: str, value: float, hint: str = "") -> None:
    """``value`` is a number above zero (and not NaN)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(op, name, "a number", describe(value), hint))
    if not value > 0:
        raise ValueError(message(op, name, "a positive number", repr(value), hint))


def non_negative(op: str, name: str, value: float) -> None:
    """``value`` is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(op, name, "a number", describe(value)))
    if not 0 <= value < float("inf"):
        raise ValueError(message(op, name, "a number >= 0", repr(value)))


def fraction(op: str, name: str, value: float) -> None:
    """``value`` lies in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(op, name, "a number in [0, 1)", describe(value)))
    if not 0 <= value < 1:
        raise ValueError(message(op, name, "a number in [0, 1)", repr(value)))


def unit_interval(op: str, name: str, value: float) -> None:
    """``value`` lies in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(op, name, "a number in [0, 1]", describe(value)))
    if not 0 <= value <= 1:
        raise ValueError(message(op, name, "a number in [0, 1]", repr(value)))


def one_of(op: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(message(op, name, "one of " + ", ".join(map(repr, allowed)), repr(value)))


def finite_loss(op: str, step: int, value: float) -> None:
    """The loss of a training step is finite."""
    if not math.isfinite(value):
        hint = "lower the learning rate, or check the data for NaN and infinity"
        raise ValueError(message(op, "loss", f"a finite loss in step {step}", repr(value), hint))
