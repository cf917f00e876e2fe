"""What encoding and decoding ops share: their registration, and the checks of streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.errors import message
from .._core.registry import Op


def coding_op(
    schema: str, reference: Callable[..., Any], kernel: Any, fake: Any, examples: Any, *, family: str,
    dtypes: tuple[torch.dtype, ...],
) -> Op:  # fmt: skip
    """Registers an op under the name of its reference, for CPU and GPU, without derivatives."""
    return Op(
        reference.__name__,
        schema,
        family=family,
        reference=reference,
        kernels=dict.fromkeys(("cpu", "cuda"), kernel),
        fake=fake,
        examples=examples,
        dtypes=dtypes,
        differentiable=False,
    )


def check_streams(op: str, payload: Tensor, offsets: Tensor, starts: Tensor, n: int) -> None:
    """Checks that ``offsets`` are ends of streams within ``payload``, and ``starts`` the starts of their items
    among n."""
    devices.refuse_waiting(op)
    for name, tensor in (("offsets", offsets), ("starts", starts)):
        if not isinstance(tensor, Tensor) or tensor.dtype is not torch.int64:
            raise TypeError(message(op, name, "an int64 tensor", checks.describe(tensor)))
        checks.same_device(op, name, tensor, payload, "payload")
    for name, tensor, most in (("offsets", offsets, payload.numel()), ("starts", starts, n)):
        if tensor.dim() != 1 or len(tensor) < 1 or tensor.shape != starts.shape:
            raise ValueError(message(op, name, "shape (chunks + 1,)", f"shape {tuple(tensor.shape)}"))
        if got := checks.not_rising(tensor, most, int(name == "starts")):
            raise ValueError(message(op, name, f"rising numbers from 0 to {most}", got))
    ends = starts[0].item(), starts[-1].item()
    if ends != (0, n):  # items of no stream would come back as zeros
        wanted = f"rising numbers from 0 to {n}, with both ends"
        raise ValueError(message(op, "starts", wanted, f"{ends[0]} to {ends[1]}"))
