"""Looks up log probabilities by category (``leaf_gather``) and sums values by category (``leaf_histogram``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import leaf_gather as reference

__all__ = ["leaf_gather", "leaf_histogram"]

KINDS = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float64)

# --- kernels: those of the CPU look at the codes and raise ---


def _gather_kernel(run: Backend, table: Tensor, codes: Tensor) -> Tensor:
    (variables, categories, units), batch = table.shape, codes.shape[1]
    out = table.new_empty(variables, units, batch)
    if batch:
        sizes = (variables, categories, units, batch)
        run.launch("leaf_gather", DTYPE_CODE[table.dtype], table.contiguous(), codes.contiguous(), out, *sizes)
    return out


def _histogram_kernel(run: Backend, values: Tensor, codes: Tensor, categories: int) -> Tensor:
    variables, units, batch = values.shape
    sums, sizes = values.new_empty(variables, categories, units), (variables, categories, units, batch)
    run.launch("leaf_histogram", DTYPE_CODE[values.dtype], values.contiguous(), codes.contiguous(), sums, *sizes)
    return sums


# --- the ops: each is the other's derivative ---


def _example(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def _codes(device: torch.device) -> Tensor:
    """Example codes (3, 5) with 4 categories, some missing."""
    return ((torch.arange(15) * 7 % 6).view(3, 5) - 2).clamp(min=-1).int().to(device)


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, codes = inputs
    ctx.save_for_backward(codes)
    ctx.categories = table.shape[1]


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (codes,) = ctx.saved_tensors
    return HISTOGRAM.call(grad, codes, ctx.categories), None


def _histogram_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _histogram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (codes,) = ctx.saved_tensors
    return GATHER.call(grad, codes), None, None


GATHER = Op(
    "leaf_gather",
    "(Tensor table, Tensor codes) -> Tensor",
    reference=reference.leaf_gather,
    kernels=dict.fromkeys(KINDS, _gather_kernel),
    fake=lambda table, codes: table.new_empty(table.shape[0], table.shape[2], codes.shape[1]),
    setup=_gather_setup,
    backward=_gather_backward,
    examples=lambda device, dtype: [(_example(device, dtype, 3, 4, 2), _codes(device))],
    dtypes=DTYPES,
)

HISTOGRAM = Op(
    "leaf_histogram",
    "(Tensor values, Tensor codes, int categories) -> Tensor",
    family="leaf_gather",
    reference=reference.leaf_histogram,
    kernels=dict.fromkeys(KINDS, _histogram_kernel),
    fake=lambda values, codes, categories: values.new_empty(values.shape[0], categories, values.shape[1]),
    setup=_histogram_setup,
    backward=_histogram_backward,
    examples=lambda device, dtype: [(_example(device, dtype, 3, 2, 5), _codes(device), 4)],
    dtypes=DTYPES,
)

# --- public functions ---


def _check_codes(op: str, codes: Tensor, variables: int, batch: int | None, other: Tensor, other_name: str) -> None:
    """Checks that ``codes`` is (variables, batch) int32 on the device of ``other``. A batch of None allows any size."""
    if not isinstance(codes, Tensor) or codes.dtype is not torch.int32:
        raise TypeError(message(op, "codes", "an int32 tensor", checks.describe(codes), "-1 marks a missing value"))
    if codes.dim() != 2 or codes.shape[0] != variables or batch not in (None, codes.shape[1]):
        expected = f"shape ({variables}, {'batch' if batch is None else batch}), (variables, batch) of '{other_name}'"
        raise ValueError(message(op, "codes", expected, f"shape {tuple(codes.shape)}", "the batch is the last axis"))
    checks.same_device(op, "codes", codes, other, other_name)


def leaf_gather(table: Tensor, codes: Tensor) -> Tensor:
    """Looks up the log probabilities of categorical leaves: ``out[v, k, b] = table[v, codes[v, b], k]``.

    Args:
        table: (V, C, K) float32 or float64: K units for each of V variables with C categories; any strides.
        codes: (V, B) int32, the category of each variable in each sample; -1 where it is missing.

    Returns:
        (V, K, B) in the table's dtype. 0 where a code is -1 (probability 1: the variable is summed out). Differentiable
        any number of times in the table. Its gradient is :func:`leaf_histogram`.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or device is wrong; on the CPU also if a code is below -1 or not below C. A GPU does not
            check codes, because that would wait for the device: a code >= C gives NaN, and one below -1 counts as
            missing.

    Backends: C++ (CPU), CUDA, plain torch. Exact.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> table = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
        >>> pk.ops.leaf_gather(table, torch.tensor([[2, -1, 0]], dtype=torch.int32))
        tensor([[[5., 0., 1.],
                 [6., 0., 2.]]])
    """
    checks.wide_float_tensor("leaf_gather", "table", table)
    if table.dim() != 3 or table.shape[1] == 0:
        expected = "shape (variables, categories, units) with at least one category"
        raise ValueError(message("leaf_gather", "table", expected, f"shape {tuple(table.shape)}"))
    _check_codes("leaf_gather", codes, table.shape[0], None, table, "table")
    return GATHER.call(table, codes)


def leaf_histogram(codes: Tensor, values: Tensor, categories: int) -> Tensor:
    """Adds up values by category: ``out[v, c, k]`` is the sum of ``values[v, k, b]`` over the b with codes[v, b] = c.

    With the flows of categorical leaves as values, these are the counts that the M-step normalizes.

    Args:
        codes: (V, B) int32, category of each variable in each sample. Entries of -1 (missing) are left out.
        values: (V, K, B) float32 or float64; any strides.
        categories: C, at least 1.

    Returns:
        (V, C, K) in the dtype of the values. Sums run in the order of the batch, so in float32 a category with a
        million samples loses about 1 %; add up several batches in float64. Differentiable in the values.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or ``categories`` is wrong; on the CPU also if a code is below -1 or not below C. A
            GPU does not check codes and leaves such entries out.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic: no atomics.

    Reference: as :func:`leaf_gather`.

    Example:
        >>> import torch, probkernels as pk
        >>> codes = torch.tensor([[2, 0, 2, -1]], dtype=torch.int32)
        >>> pk.ops.leaf_histogram(codes, torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), 3)
        tensor([[[2.],
                 [0.],
                 [4.]]])
    """
    checks.wide_float_tensor("leaf_histogram", "values", values)
    if values.dim() != 3:
        got = f"shape {tuple(values.shape)}"
        raise ValueError(message("leaf_histogram", "values", "shape (variables, units, batch)", got))
    _check_codes("leaf_histogram", codes, values.shape[0], values.shape[2], values, "values")
    checks.integer("leaf_histogram", "categories", categories)
    return HISTOGRAM.call(values, codes, categories)
