"""Observations in the form that the passes take: checked, with the batch as the last axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import AS_TENSOR, describe
from .._core.errors import message

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


@dataclass(frozen=True)
class Evidence:
    """A batch of observations; the batch is the last axis.

    codes (D, B) int32: category of each discrete variable, -1 where missing and for continuous variables.
    values (D, B): values of continuous variables. None if there are no continuous variables.
    missing (D, B) bool. None if nothing is missing.
    """

    codes: Tensor
    values: Tensor | None
    missing: Tensor | None


def observe(x: Tensor, missing: Tensor | None, categories: Tensor, is_discrete: list[bool]) -> Evidence:
    """Checks observations (B, D) and transposes them.

    Args:
        x, missing: see :meth:`Circuit.log_prob`.
        categories: (D,), 0 for continuous variables. The result is on its device.
        is_discrete: for each variable, whether it is discrete.
    """
    _check(x, missing, is_discrete)
    device = categories.device
    turned = None if missing is None else missing.expand(x.shape).t().contiguous().to(device)
    codes = x.t().to(device, torch.int32, copy=True, memory_format=torch.contiguous_format)
    values = None
    if not all(is_discrete):
        values = x.t().to(device).contiguous()
        whole = torch.tensor(is_discrete, device=device)[:, None]
        _check_values(values, codes, whole, turned)
        codes.masked_fill_(~whole, -1)
    _check_range(x, codes, turned, categories)
    if turned is not None:
        codes.masked_fill_(turned, -1)
    return Evidence(codes, values, turned)


def _check(x: Tensor, missing: Tensor | None, is_discrete: list[bool]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(message("Circuit", "x", "a tensor", describe(x), AS_TENSOR))
    if all(is_discrete):
        if x.dtype not in INTEGERS:
            hint = "categories are counted from 0; x.long() if your values are whole numbers"
            raise TypeError(message("Circuit", "x", "an integer dtype for discrete variables", str(x.dtype), hint))
    elif not x.is_floating_point():
        raise TypeError(message("Circuit", "x", "a float dtype for continuous variables", str(x.dtype)))
    count = len(is_discrete)
    if x.ndim != 2 or x.shape[1] != count:
        raise ValueError(message("Circuit", "x", f"shape (B, {count})", f"shape {tuple(x.shape)}"))
    if missing is None:
        return
    if not isinstance(missing, Tensor) or missing.dtype is not torch.bool:
        raise TypeError(message("Circuit", "missing", "a bool tensor", describe(missing)))
    if tuple(missing.shape) not in (tuple(x.shape), (count,)):
        wanted = f"the shape of x {tuple(x.shape)} or ({count},)"
        raise ValueError(message("Circuit", "missing", wanted, f"shape {tuple(missing.shape)}"))


def _check_values(values: Tensor, codes: Tensor, whole: Tensor, missing: Tensor | None) -> None:
    """Checks that values (D, B) are finite where observed, and whole numbers for discrete variables (``whole``, (D,
    1))."""
    wrong = ~values.isfinite() | (whole & (values != codes))
    if missing is not None:
        wrong &= ~missing
    if wrong.any():
        variable, item = wrong.nonzero()[0].tolist()
        hint = "missing=x.isnan() marginalizes what is not known"
        wanted = "whole numbers" if whole[variable] else "finite numbers"
        got = f"{values[variable, item].item()} at item {item}, variable {variable}"
        raise ValueError(message("Circuit", "x", wanted, got, hint))


def _check_range(x: Tensor, codes: Tensor, missing: Tensor | None, categories: Tensor) -> None:
    """Checks that codes (D, B), made from x (B, D), lie in the variable's alphabet where they are observed."""
    limit = categories[:, None]
    wrong = ((codes < 0) | (codes >= limit)) & (limit > 0)
    if x.dtype is torch.int64:
        wrong |= x.t().to(codes.device) != codes  # beyond 32 bits: it may have wrapped into the alphabet
    if missing is not None:
        wrong &= ~missing
    if wrong.any():
        variable, item = wrong.nonzero()[0].tolist()
        wanted = f"values 0 .. {int(limit[variable]) - 1} of variable {variable}"
        got = f"{int(x[item, variable])} at item {item}"
        raise ValueError(message("Circuit", "x", wanted, got, "mark what is not known in missing="))
