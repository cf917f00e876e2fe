"""Argument checks of all public functions. Each raises TypeError (dtype, kind) or ValueError (shape, range)."""

from __future__ import annotations

import difflib
import itertools
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from . import devices
from .errors import message

MOST_SHOWN = 60  # characters, or entries, of what an error names
AS_TENSOR = "torch.as_tensor(...) makes one of an array or a list"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def describe(value: object) -> str:
    """Describes a value for an error message, in one line at most."""
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a NumPy array of {value.dtype}, shape {tuple(value.shape)}" if kind == "ndarray" else f"a {kind}"
    if isinstance(value, (torch.nn.Module, Mapping)) or type(value).__module__.startswith("pandas"):
        return f"a {kind}" + (f" of {len(value)} entries" if isinstance(value, Mapping) else "")
    if isinstance(value, (list, tuple, set, bytes, bytearray, str)) and len(value) > MOST_SHOWN:
        start = repr(value[:3])[:MOST_SHOWN] if not isinstance(value, set) else ""
        return f"{kind} of length {len(value)}" + (f", {start}..." if start else "")
    text = repr(value)
    return f"{kind} {text if len(text) <= 2 * MOST_SHOWN else text[: 2 * MOST_SHOWN] + '...'}"


def shown(value: object) -> str:
    """Text of a value of the right kind that is out of range, for an error message."""
    text = repr(value)
    return text if len(text) <= 2 * MOST_SHOWN else describe(value)


def offender(value: torch.Tensor, wrong: torch.Tensor, what: str = "") -> str:
    """Describes the first entry of ``value`` where ``wrong`` (of its shape or broadcast to it) is True, for an error
    message: its value, its index, and how many more there are."""
    wrong = wrong.expand_as(value)
    places = wrong.nonzero()
    index = tuple(places[0].tolist())
    at = f" at [{', '.join(map(str, index))}]" if index else ""
    more = f", and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{what}{value[index].item()}{at}{more}"


def integer_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """Checks that ``value`` is an integer tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(message(op, name, "an integer tensor", describe(value), AS_TENSOR))
    if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
        raise TypeError(message(op, name, "an integer tensor", str(value.dtype), hint or "x.long() if all are whole"))


def integer(op: str, name: str, value: object, least: int = 1, most: int | None = None, wanted: str = "") -> int:
    """Checks that ``value`` is a whole number from ``least`` to ``most``, not a bool, and returns it. ``wanted``
    replaces the expectation in the message."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message(op, name, wanted or "a whole number", describe(value)))
    if value < least or (most is not None and value > most):
        wanted = wanted or (f"a number >= {least}" if most is None else f"{least} to {most}")
        raise ValueError(message(op, name, wanted, shown(value)))
    return value


def says_stop(op: str, name: str, answer: object) -> bool:
    """Whether a callback's answer is True, also as a numpy bool or a bool tensor. None and False mean to go on."""
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    if str(getattr(answer, "dtype", "")) in ("bool", "torch.bool") and getattr(answer, "ndim", None) == 0:
        return bool(answer)
    raise TypeError(message(op, name, "a function that returns True to stop, else None or False", describe(answer)))


def finite(op: str, name: str, value: torch.Tensor, hint: str = "") -> None:
    """Checks that all entries are finite."""
    wrong = ~value.isfinite()
    if wrong.any():
        raise ValueError(message(op, name, "finite numbers", offender(value, wrong), hint))


def not_rising(value: torch.Tensor, most: int, step: int = 0) -> str:
    """Describes the first number that is below 0, above ``most`` or less than ``step`` above the previous one, for an
    error message. Empty if there is none."""
    before = torch.cat([value.new_full((1,), -step), value[:-1]])
    wrong = (value < 0) | (value > most) | (value - before < step)
    return offender(value, wrong) if bool(wrong.any()) else ""


def hidden(progress: bool) -> bool:
    """Value for tqdm's ``disable``: shows a bar on a terminal and in a notebook, but not in a log file."""
    return not (progress and (sys.stderr.isatty() or "ipykernel" in sys.modules))


def nearest(value: object, allowed: Iterable[object]) -> str:
    """The hint for a name that is not in ``allowed`` but close to an entry. Empty if none is close."""
    names = {str(name).lower(): str(name) for name in allowed}
    found = difflib.get_close_matches(value.lower(), names, 1) if isinstance(value, str) else []
    return f"did you mean '{names[found[0]]}'?" if found else ""


def float_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """Checks that ``value`` is a float32, float64, float16 or bfloat16 tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(message(op, name, "a floating-point tensor", describe(value), hint))
    if value.dtype not in FLOATS:
        raise TypeError(message(op, name, "dtype float32, float64, float16 or bfloat16", str(value.dtype), hint))


def wide_float_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """Checks that ``value`` is a float32 or float64 tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(message(op, name, "a floating-point tensor", describe(value), hint))
    if value.dtype not in (torch.float32, torch.float64):
        hint = f"{name}.float() converts it" if hint == AS_TENSOR else hint  # it is a tensor already
        raise TypeError(message(op, name, "dtype float32 or float64", str(value.dtype), hint))


def shape(op: str, name: str, value: torch.Tensor, expected: Sequence[int], like: str, hint: str = "") -> None:
    """Checks that ``value`` has exactly the shape ``expected``. ``like`` says in words what the shape must match."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(message(op, name, f"shape {tuple(expected)} {like}", f"shape {tuple(value.shape)}", hint))


def bool_tensor(op: str, name: str, value: object, hint: str = "") -> None:
    """Checks that ``value`` is a bool tensor."""
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.bool:
        raise TypeError(message(op, name, "a bool tensor", describe(value), hint))


def same_device(op: str, name: str, value: torch.Tensor, other: torch.Tensor, other_name: str) -> None:
    """Checks that ``value`` is on the device of ``other``."""
    if value.device != other.device:
        raise ValueError(message(op, name, f"the device of '{other_name}' ({other.device})", str(value.device)))


def _real(op: str, name: str, value: object, wanted: str, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(op, name, wanted, describe(value), hint))


def number(op: str, name: str, value: Any) -> float:
    """``value`` as a float: a finite number, of torch and NumPy too."""
    try:
        found = None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise TypeError(message(op, name, "a number", describe(value)))
    if not math.isfinite(found):
        raise ValueError(message(op, name, "a finite number", repr(found)))
    return found


def positive(op: str, name: str, value: float, hint: str = "", *, finite: bool = True) -> None:
    """Checks that ``value`` is a number above zero, not NaN, and not infinite unless that has a meaning."""
    _real(op, name, value, "a number", hint)
    if not value > 0 or (finite and math.isinf(value)):
        raise ValueError(message(op, name, "a positive number", repr(value), hint))


def non_negative(op: str, name: str, value: float) -> None:
    """Checks that ``value`` is a finite number >= 0."""
    _real(op, name, value, "a number")
    if not 0 <= value < float("inf"):
        raise ValueError(message(op, name, "a number >= 0", repr(value)))


def fraction(op: str, name: str, value: float) -> None:
    """Checks that ``value`` lies in [0, 1)."""
    _real(op, name, value, "a number in [0, 1)")
    if not 0 <= value < 1:
        raise ValueError(message(op, name, "a number in [0, 1)", repr(value)))


def unit_interval(op: str, name: str, value: float) -> None:
    """Checks that ``value`` lies in [0, 1]."""
    _real(op, name, value, "a number in [0, 1]")
    if not 0 <= value <= 1:
        raise ValueError(message(op, name, "a number in [0, 1]", repr(value)))


def positive_fraction(op: str, name: str, value: float) -> None:
    """Checks that ``value`` lies in (0, 1]."""
    _real(op, name, value, "a number in (0, 1]")
    if not 0 < value <= 1:
        raise ValueError(message(op, name, "a number in (0, 1]", repr(value)))


def one_of(op: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Checks that ``value`` is one of ``allowed``."""
    if value not in allowed:
        wanted = "one of " + ", ".join(map(repr, allowed))
        raise ValueError(message(op, name, wanted, shown(value), nearest(value, allowed)))


def finite_loss(op: str, step: int, value: float) -> None:
    """Checks that the loss of a training step is finite."""
    if not math.isfinite(value):
        hint = "lower the learning rate, or check the data for NaN and infinity"
        raise ValueError(message(op, "loss", f"a finite loss in step {step}", repr(value), hint))


def is_sharded(value: object) -> bool:
    """Whether ``value`` is a DTensor, as FSDP2 makes them. Avoids importing the class, which takes half a second: if
    nobody has imported it, ``value`` cannot be one."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def readable(*values: torch.Tensor) -> bool:
    """Whether numbers can be looked at: not on meta, in fake tensors, or while a CUDA graph is captured."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    if any(value.is_meta or (fake is not None and isinstance(value, fake.FakeTensor)) for value in values):
        return False
    return not devices.capturing()


def sharing(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """A tensor that has memory in common with another of them, or None. Views that only interlace have not."""
    if torch.compiler.is_compiling() or not readable(*tensors[:1]):
        return None
    starts = [t.data_ptr() for t in tensors]
    ends = [start + t.nbytes if t.is_contiguous() else _end(t) for start, t in zip(starts, tensors, strict=True)]
    order = sorted(range(len(tensors)), key=starts.__getitem__)
    if all(ends[one] <= starts[other] for one, other in itertools.pairwise(order)):
        return None
    group: list[torch.Tensor] = []
    first = last = 0
    for k in order:
        if starts[k] >= last:
            group, first = [], starts[k]
        group.append(tensors[k])
        last = max(last, ends[k])
        if len(group) > 1 and _meet(group, first, last):
            return tensors[k]
    return None


def _end(t: torch.Tensor) -> int:
    """The address after the last element."""
    reach = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True)) + 1
    return t.data_ptr() + reach * t.itemsize


def _meet(tensors: Sequence[torch.Tensor], first: int, last: int) -> bool:
    """Whether a byte between two addresses belongs to more than one tensor: counts it."""
    owners = torch.zeros(last - first, dtype=torch.uint8, device=tensors[0].device)
    for t in tensors:
        strides = [stride * t.itemsize for stride in t.stride()]
        owners.as_strided((*t.shape, t.itemsize), (*strides, 1), t.data_ptr() - first).add_(1)
    return bool(owners.amax() > 1)
