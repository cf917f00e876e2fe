"""Random numbers as a function of seed, step, row and index: the op, kernels' glue, and the public functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks, native
from .._core.backend import Backend
from .._core.errors import message
from .._core.registry import Op
from ..reference import philox as reference

__all__ = ["philox_normal", "philox_uniform"]

LARGEST = 2**63 - 1
MOST_ROWS = 2**32  # a row and a quarter of an index are a word of the counter each
MOST_ELEMENTS = 2**34
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = ("cpu", "cuda")
SERVED = (*KINDS, "meta")  # kinds of device with a registered op


def _kernel(run: Backend, like: Tensor, seeds: Tensor | None, seed: int, row: int, step: int, normal: bool) -> Tensor:
    z, rows = torch.empty(like.shape, dtype=like.dtype, device=like.device), like.shape[0]
    seeds = None if seeds is None else seeds.contiguous()
    run.launch("philox", native.DTYPE_CODE[z.dtype], z, seeds, rows, z.numel() // rows, seed, row, step, normal)
    return z


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """One seed and rows that are no multiple of four; a seed for each row."""
    like, seeds = torch.zeros(3, 7, device=device, dtype=dtype), torch.tensor([5, 0, 2**40], device=device)
    return [(like, None, 2**40 + 5, 2, 3, True), (like, seeds, 0, 0, 2**33, False)]


OP = Op(
    "philox",
    "(Tensor like, Tensor? seeds, int seed, int row, int step, bool normal) -> Tensor",
    reference=reference.philox,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=lambda like, *_: torch.empty(like.shape, dtype=like.dtype, device=like.device),
    examples=_examples,
    differentiable=False,
)

# --- for callers inside the package, whose arguments are known to fit; and the public functions ---


def normal(like: Tensor, seeds: Tensor | None, seed: int, step: int) -> Tensor:
    """:func:`philox_normal` as ``like`` (rows, ...), unchecked: of ``seeds`` (rows,), or of ``seed``."""
    call: Callable[..., Tensor] = OP.call if like.device.type in SERVED else reference.philox
    return call(like, seeds, seed, 0, step, True)


def check_counter(op: str, seeds: int | Tensor, step: int, first_row: int, rows: int, elements: int) -> None:
    """``seeds``, ``step`` and ``first_row`` name the numbers of ``rows`` rows of ``elements`` elements."""
    wanted = "an int or an int64 tensor, a seed for each row"
    if isinstance(seeds, Tensor):
        if seeds.dtype is not torch.int64:
            raise TypeError(message(op, "seeds", wanted, checks.describe(seeds)))
        checks.shape(op, "seeds", seeds, (rows,), "(a seed for each row)")
        if first_row:
            hint = "a row that has a seed of its own has no number"
            raise ValueError(message(op, "first_row", "0 beside a tensor of seeds", str(first_row), hint))
    for name, value, most in (("seeds", seeds, LARGEST), ("step", step, LARGEST), ("first_row", first_row, MOST_ROWS)):
        if isinstance(value, Tensor) and name == "seeds":
            continue
        checks.integer(op, name, value, 0, most, wanted if name == "seeds" and type(value) is not int else "")
    if first_row + rows > MOST_ROWS:
        raise ValueError(message(op, "first_row", f"rows below {MOST_ROWS}", f"{first_row} + {rows} rows"))
    if elements > MOST_ELEMENTS:
        hint = "draw them in parts, each with a step of its own"
        raise ValueError(message(op, "shape", f"at most {MOST_ELEMENTS} elements a row", str(elements), hint))


def _draw(
    op: str, normal: bool, seeds: int | Tensor, shape: Sequence[int], step: int, first_row: int,
    dtype: torch.dtype | None, device: torch.device | str | None,
) -> Tensor:  # fmt: skip
    try:
        size = torch.Size(shape)
    except TypeError as error:
        raise TypeError(message(op, "shape", "(rows, ...), whole numbers", checks.describe(shape))) from error
    if not size or min(size) < 0:
        raise ValueError(message(op, "shape", "(rows, ...), none below 0", str(tuple(size))))
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(message(op, "dtype", "float32, float64, float16 or bfloat16", str(dtype)))
    check_counter(op, seeds, step, first_row, size[0], size.numel() // size[0] if size[0] else 0)
    each = seeds if isinstance(seeds, Tensor) else None
    if device is None and each is not None:
        device = each.device
    like = torch.empty(1, dtype=dtype, device=device).expand(size)  # has no memory of its own
    if each is not None:
        checks.same_device(op, "seeds", each, like, "device")
    return OP.call(like, each, 0 if isinstance(seeds, Tensor) else seeds, first_row, step, normal)


def philox_normal(
    seeds: int | Tensor,
    shape: Sequence[int],
    *,
    step: int = 0,
    first_row: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal numbers that are a function of a seed, a step, a row and an index: any can be drawn again.

    Args:
        seeds: an int from 0 to 2^63 - 1; or (rows,) int64, a seed for each row, which then gets the same numbers in
            any batch and at any place in it.
        shape: (rows, ...), a row at most 2^34 elements.
        step: 0 to 2^63 - 1; another step gives other numbers.
        first_row: the number of the first row under a single seed: a batch may be drawn in parts.
        dtype: float32, float64, float16 or bfloat16; torch's default if None.
        device: that of a tensor of seeds, or torch's default, if None.

    Returns:
        The numbers, of ``shape``. The same bits on every backend and for any number of threads; float64 gives the same
        numbers with more digits, half precision those of float32, rounded. None is beyond 6.7.

    Raises:
        TypeError: a dtype is wrong, or a number is not whole.
        ValueError: a shape or device is wrong, or a number out of range.

    Backends: C++ (CPU), CUDA, plain torch.

    Reference: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Philox4x32-10); Box and Muller.

    Example:
        >>> import torch, probkernels as pk
        >>> whole = pk.ops.philox_normal(7, (4, 3), step=2)
        >>> part = pk.ops.philox_normal(7, (2, 3), step=2, first_row=2)
        >>> torch.equal(whole[2:], part)
        True
    """
    return _draw("philox_normal", True, seeds, shape, step, first_row, dtype, device)


def philox_uniform(
    seeds: int | Tensor,
    shape: Sequence[int],
    *,
    step: int = 0,
    first_row: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform numbers in [0, 1) that are a function of a seed, a step, a row and an index.

    They come from the same words as :func:`philox_normal`: take another step or seed for independent ones.

    Args:
        seeds: as of :func:`philox_normal`.
        shape: (rows, ...), a row at most 2^34 elements.
        step: 0 to 2^63 - 1.
        first_row: the number of the first row under a single seed.
        dtype: float32, float64, float16 or bfloat16; torch's default if None.
        device: that of a tensor of seeds, or torch's default, if None.

    Returns:
        The numbers, of ``shape``, the same bits on every backend: the leading 24 bits of a word for float32, 32 for
        float64, 11 for float16, 8 for bfloat16. Never 1.

    Raises:
        TypeError: a dtype is wrong, or a number is not whole.
        ValueError: a shape or device is wrong, or a number out of range.

    Backends: C++ (CPU), CUDA, plain torch.

    Reference: as :func:`philox_normal`.

    Example:
        >>> import torch, probkernels as pk
        >>> u = pk.ops.philox_uniform(torch.tensor([5, 5, 6]), (3, 100))
        >>> torch.equal(u[0], u[1]), torch.equal(u[0], u[2]), bool((u < 1).all())
        (True, False, True)
    """
    return _draw("philox_uniform", False, seeds, shape, step, first_row, dtype, device)
