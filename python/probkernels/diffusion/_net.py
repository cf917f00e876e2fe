"""Calls the network: prepares its inputs, restricts what it may do, and checks its output."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._random import Source, equal, sources

# --- conditions: tensors, or nested tuples, lists, dicts and dataclasses with tensors and other values ---


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif is_record(value):
        for item in _attributes(value).values():
            yield from tensors_in(item)


def replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``change`` applied to every tensor in it. Containers are new ones of the same types."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return _like_dict(value, {key: replaced(item, change) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        return _like_sequence(value, [replaced(item, change) for item in value])
    if is_record(value):
        return _like_record(value, {key: replaced(item, change) for key, item in _attributes(value).items()})
    return value


def is_record(value: Any) -> bool:
    """Whether ``value`` is a dataclass instance or a namespace, whose attributes are all its content."""
    dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclass or isinstance(value, SimpleNamespace)


def _attributes(record: Any) -> dict[str, Any]:
    """The attributes of a record, with or without ``__slots__``."""
    found = dict(vars(record)) if hasattr(record, "__dict__") else {}
    if dataclasses.is_dataclass(record):
        found |= {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if hasattr(record, f.name)}
    return found


def _like_record(form: Any, items: dict[str, Any]) -> Any:
    """A copy of ``form`` whose attributes are ``items``, frozen or not."""
    made = copy.copy(form)
    for key, item in items.items():
        object.__setattr__(made, key, item)
    return made


def _like_dict(form: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    """``items`` in a dict of the form's type, for instance a defaultdict."""
    if type(form) is dict:
        return items
    made = copy.copy(form)
    for key, item in items.items():
        made[key] = item
    return made


def _like_sequence(form: Any, items: list[Any]) -> Any:
    """``items`` in a tuple, named tuple or list of the form's type."""
    return form._make(items) if hasattr(form, "_make") else type(form)(items)


def join(first: Any, second: Any, like: Tensor) -> Any:
    """Concatenates two conditions as one batch. One row may stand for a batch; other values must be equal."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        whole = (like.shape[0], *max((first, second), key=lambda t: t.ndim).shape[1:])
        return torch.cat([first.expand(whole), second.expand(whole)])
    if type(first) is type(second):
        if isinstance(first, dict) and first.keys() == second.keys():
            return _like_dict(first, {key: join(first[key], second[key], like) for key in first})
        if isinstance(first, (tuple, list)) and len(first) == len(second):
            return _like_sequence(first, [join(a, b, like) for a, b in zip(first, second, strict=True)])
        if is_record(first):
            return _like_record(first, join(_attributes(first), _attributes(second), like))
        if first is None or (isinstance(first, (bool, int, float, str)) and first == second):
            return first
    expected = "tensors, or tuples, lists, dicts or dataclasses as 'cond', the same in all that is no tensor"
    hint = "guidance compares a condition with the one that means none, for instance a null token"
    raise TypeError(message("Denoiser", "uncond", expected, checks.describe(first), hint))


def outside_inference(t: Tensor) -> Tensor:
    """``t``, or a copy that autograd can save if ``t`` was made in an inference mode that has ended."""
    return t.clone() if t.is_inference() and not torch.is_inference_mode_enabled() else t


# --- what a net may not do ---


def check_state(op: str, name: str, x: object) -> None:
    """Checks that ``x`` is a floating-point tensor (B, *S)."""
    checks.float_tensor(op, name, x, "complex data go through torch.view_as_real")
    assert isinstance(x, Tensor)
    if x.ndim < 1:
        raise ValueError(message(op, name, "shape (B, *S)", "shape ()", "one sample alone is a batch of one: x[None]"))


def refuse_running_statistics(op: str, model: nn.Module) -> None:
    """Refuses batch normalization in training mode: every call would count the sampler's states as data."""
    for name, module in model.named_modules():
        if module.training and any(key.startswith("running_") for key, _ in module.named_buffers(recurse=False)):
            hint = "call model.eval(): every call of the net would update the running statistics"
            raise ValueError(message(op, "model", "batch normalization in eval mode", f"{name} in training", hint))


@contextlib.contextmanager
def drawing_nothing(op: str, generators: Sequence[Source]) -> Iterator[None]:
    """Raises if the net's call inside the block draws from one of the generators."""
    before = [source.get() for source in generators]
    yield
    if not all(equal(state, source.get()) for state, source in zip(before, generators, strict=True)):
        hint = "call model.eval()"
        raise ValueError(message(op, "model", "a net that draws no random numbers", "one that does", hint))


# --- the call ---


@dataclass(frozen=True)
class Setting:
    """Options that all calls of a run share.

    dtype: dtype of the net's input. None: the state's dtype, which is float32 for half-precision data.
    ode: name of the function that solves an ODE with a net that may not draw random numbers; "" for none.
    generators: the sources that such a net might draw from.
    """

    dtype: torch.dtype | None = None
    ode: str = ""
    generators: Sequence[Source] = ()


PLAIN = Setting()


def setting_of(model: nn.Module, x: Tensor, ode: str = "") -> Setting:
    """The setting of a run that starts at the data or noise x (B, *S)."""
    return Setting(x.dtype, ode, sources(model, x.device) if ode else ())


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: the dtype of computations between two calls of a half-precision net."""
    return torch.promote_types(dtype, torch.float32)


def flat(x: Tensor) -> Tensor:
    """x (B, *S) as (B, D): one row a sample, also if a sample is one number."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def call(net: nn.Module, x: Tensor, t: Tensor, cond: Any, shape: tuple[int, ...], hint: str, how: Setting) -> Tensor:
    """The net's output (of ``shape``) at x and t. The net may write to both, so the caller must not use them again."""
    with drawing_nothing(how.ode, how.generators):
        output = net(x, t) if cond is None else net(x, t, replaced(cond, Tensor.clone))
    if not isinstance(output, Tensor):
        advice = "wrap the net in a module that returns the tensor alone, for instance net(...).sample or net(...)[0]"
        got = f"an output of type {type(output).__name__}"
        raise TypeError(message("Denoiser", "net", "a tensor as output", got, advice))
    if output.dtype not in checks.FLOATS:
        advice = "complex outputs go through torch.view_as_real" if output.is_complex() else ""
        raise TypeError(message("Denoiser", "net", "an output of floating-point numbers", str(output.dtype), advice))
    if tuple(output.shape) != shape:
        got = f"shape {tuple(output.shape)}"
        raise ValueError(message("Denoiser", "net", f"an output of shape {shape}", got, hint))
    return output
