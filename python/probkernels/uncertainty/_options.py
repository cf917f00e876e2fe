"""Checks of utilities and probabilities of options: classes, tokens or candidate sequences, some of them masked."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ._inputs import HALF, row_labels, widened

NO_OPTION = "leave such rows out, or allow one option"


def check_shape(op: str, name: str, value: object, hint: str = checks.AS_TENSOR) -> Tensor:
    """Checks floating-point numbers (..., M), M >= 1, and returns them as float32 or float64."""
    checks.float_tensor(op, name, value, hint)
    assert isinstance(value, Tensor)
    if not value.ndim or not value.shape[-1]:
        raise ValueError(message(op, name, "shape (..., M) with M >= 1 options", f"shape {tuple(value.shape)}"))
    return widened(value)


def check_mask(op: str, name: str, mask: object, like: Tensor, like_name: str) -> None:
    """Checks a bool mask of the shape and device of a tensor."""
    checks.bool_tensor(op, name, mask)
    assert isinstance(mask, Tensor)
    checks.shape(op, name, mask, like.shape, f"(that of '{like_name}')", "mask.expand_as(...) repeats a mask")
    checks.same_device(op, name, mask, like, like_name)


def masked(op: str, name: str, wide: Tensor, mask: Tensor | None) -> Tensor:
    """The numbers with -inf where an option is masked. Refuses NaN, infinity, and rows without an option."""
    if mask is not None:
        check_mask(op, "mask", mask, wide, name)
        wide = wide.masked_fill(~mask, -torch.inf)
    if not numbers_known(wide):
        return wide
    wrong = wide.isnan() | (wide == torch.inf)
    if wrong.any():
        raise ValueError(message(op, name, "finite numbers, or -inf for what is not allowed", _first(wide, wrong)))
    none = (wide == -torch.inf).all(-1)
    if none.any():
        row = tuple(none.nonzero()[0].tolist())
        got = f"no option{f' in row {list(row)}' if row else ''}"
        argument = name if mask is None else "mask"
        raise ValueError(message(op, argument, "at least one option in each row", got, NO_OPTION))
    return wide


def check_utility(op: str, utility: object, mask: Tensor | None, name: str = "utility") -> Tensor:
    """Checks utilities (..., M), such as logits. -inf is an option that is not allowed, as is a masked one."""
    return masked(op, name, check_shape(op, name, utility), mask)


def check_log_probs(op: str, log_probs: object, mask: Tensor | None) -> Tensor:
    """Checks log-probabilities (..., M) of all options that are not masked: their sum is 1."""
    hint = "gibbs(utility) makes log-probabilities of logits; give it the same mask"
    wide = masked(op, "log_probs", check_shape(op, "log_probs", log_probs, hint), mask)
    if not numbers_known(wide):
        return wide
    assert isinstance(log_probs, Tensor)
    tolerance = 1e-2 if log_probs.dtype in HALF else 1e-4
    sums = wide.detach().exp().sum(-1)
    wrong = ~((sums - 1).abs() <= tolerance)
    if wrong.any():
        got = _first(sums, wrong, "a sum of ")
        raise ValueError(message(op, "log_probs", "log-probabilities whose probabilities sum to 1", got, hint))
    return wide


def check_labels(op: str, labels: object, wide: Tensor, name: str = "labels") -> Tensor:
    """Checks labels (...), the index of an allowed option each."""
    given = row_labels(op, name, labels, wide, "utility", "options")
    wrong = chosen(wide.detach(), given) == -torch.inf
    if wrong.any():
        raise ValueError(message(op, name, "options that are allowed", checks.offender(given, wrong)))
    return given


def chosen(values: Tensor, choice: Tensor) -> Tensor:
    """The entry of each row (..., M) that a choice (...) names."""
    return values.gather(-1, choice[..., None])[..., 0]


def expectation(log_probs: Tensor, values: Tensor) -> Tensor:
    """Mean of values (..., M) under each row of probabilities. What has no probability counts 0, whatever its value."""
    probs = log_probs.exp()
    return (probs * values.to(probs.dtype).masked_fill(probs == 0, 0)).sum(-1)


def _first(value: Tensor, wrong: Tensor, what: str = "") -> str:
    return checks.offender(value.detach(), wrong, what)
