"""Computes selected entries of a weight's gradient alone: kernel calls, ``sampled_matmul`` and ``sampled_conv``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend, unless_forced
from .._core.errors import message
from .._core.formats.bitmap import pack
from .._core.native import DTYPE_CODE, accumulation_dtype
from .._core.registry import Op
from ..reference import sampled_matmul as reference
from .selection import Selection

__all__ = ["sampled_conv", "sampled_matmul"]

KINDS = ("cpu", "triton", "cuda")  # on a GPU bitmaps go to Triton; for index lists see _kernel

# --- kernels: every product is a convolution over three dimensions, a matrix product one of images that are points ---

POINT = (1, 1, 1)
PLAIN = (*POINT, *POINT, *POINT, *POINT, 0, 0, 0, *POINT)  # in, out, kernel, stride, padding, dilation


def _kernel(
    run: Backend,
    grad_y: Tensor,
    x: Tensor,
    index: Tensor | None,
    words: Tensor | None,
    ranks: Tensor | None,
    count: int,
    sizes: tuple[int, ...],
) -> Tensor:
    """Runs the kernel on images. ``sizes`` is the struct Geometry of csrc/include/pk/sampled.h."""
    values = torch.zeros(count, dtype=accumulation_dtype(grad_y), device=grad_y.device)
    if count == 0 or x.numel() == 0:
        return values
    if run.kind == "triton" and index is not None:
        run = unless_forced("cuda", run)  # an index list is so sparse that single dot products beat a dense product
    if max(grad_y.numel() // sizes[1], sizes[1], sizes[3] * math.prod(sizes[10:13])) >= 2**31:
        raise ValueError(message("sampled_matmul", "grad_y", "fewer than 2^31 tokens, rows and columns", "more"))
    factors = grad_y.contiguous(), x.to(grad_y.dtype).contiguous()
    selected = [t if t is None else t.contiguous() for t in (index, words, ranks)]
    if run.kind == "triton":
        from ..triton_kernels import sampled_matmul as kernels  # imports triton, which a CPU machine may not have

        kernels.sampled_matmul(*factors, selected, values, sizes)
    else:
        layout = torch.tensor(sizes, dtype=torch.int64)
        run.launch("sampled_matmul", DTYPE_CODE[grad_y.dtype], *factors, *selected, values, layout, count)
    return values


def _matmul_kernel(
    run: Backend,
    grad_y: Tensor,
    x: Tensor,
    index: Tensor | None,
    words: Tensor | None,
    ranks: Tensor | None,
    count: int,
) -> Tensor:
    (tokens, rows), columns = grad_y.shape, x.shape[1]
    return _kernel(run, grad_y, x, index, words, ranks, count, (tokens, rows, 1, columns, *PLAIN))


def _conv_kernel(
    run: Backend, grad_y: Tensor, x: Tensor, index: Tensor | None, words: Tensor | None, ranks: Tensor | None,
    count: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int,
) -> Tensor:  # fmt: skip
    def three(sizes: Sequence[int], fill: int) -> list[int]:
        return [fill] * (3 - len(sizes)) + list(sizes)

    images = [three(t.shape[2:], 1) for t in (x, grad_y)]
    windows = [three(kernel, 1), three(stride, 1), three(padding, 0), three(dilation, 1)]
    flat = [size for triple in (*images, *windows) for size in triple]
    sizes = (grad_y.shape[0], grad_y.shape[1], groups, x.shape[1], *flat)
    return _kernel(run, grad_y, x, index, words, ranks, count, sizes)


# --- examples: what doctor and the composition tests run every op on ---


def _example(
    device: torch.device, dtype: torch.dtype, y_shape: tuple[int, ...], x_shape: tuple[int, ...], entries: int
) -> tuple[list[Tensor], list[tuple[Any, ...]]]:
    """Example grad_y and x, with a third of ``entries`` selected in both encodings."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in (y_shape, x_shape)]
    mask = torch.rand(entries, generator=generator) < 1 / 3
    words, ranks = (t.to(device) for t in pack(mask))
    index = mask.nonzero().flatten().int().to(device)
    return factors, [(index, None, None, index.numel()), (None, words, ranks, index.numel())]


def _matmul_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    factors, selections = _example(device, dtype, (7, 5), (7, 6), 30)
    return [(*factors, *selected) for selected in selections]


def _conv_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    factors, selections = _example(device, dtype, (2, 4, 3, 2), (2, 6, 5, 4), 4 * 3 * 3 * 2)
    return [(*factors, *selections[1], (3, 2), (2, 2), (1, 1), (1, 2), 2)]


def _values_like(grad_y: Tensor, x: Tensor, index: Any, words: Any, ranks: Any, count: int, *_: Any) -> Tensor:
    return grad_y.new_empty(count, dtype=accumulation_dtype(grad_y))


MATMUL = Op(
    "sampled_matmul",
    "(Tensor grad_y, Tensor x, Tensor? index, Tensor? words, Tensor? ranks, int count) -> Tensor",
    family="sampled_matmul",
    reference=reference.sampled_matmul,
    kernels=dict.fromkeys(KINDS, _matmul_kernel),
    fake=_values_like,
    examples=_matmul_examples,
)

CONV = Op(
    "sampled_conv",
    "(Tensor grad_y, Tensor x, Tensor? index, Tensor? words, Tensor? ranks, int count, int[] kernel, int[] stride,"
    " int[] padding, int[] dilation, int groups) -> Tensor",
    family="sampled_matmul",
    reference=reference.sampled_conv,
    kernels=dict.fromkeys(KINDS, _conv_kernel),
    fake=_values_like,
    examples=_conv_examples,
)

# --- public functions ---


def _check(op: str, grad_y: Tensor, x: Tensor, selection: Selection) -> None:
    if not isinstance(selection, Selection):
        raise TypeError(message(op, "selection", "a Selection", checks.describe(selection)))
    checks.float_tensor(op, "grad_y", grad_y)
    checks.float_tensor(op, "x", x)
    checks.same_device(op, "x", x, grad_y, "grad_y")
    if x.dtype is not grad_y.dtype:
        hint = "cast one of them"
        raise TypeError(message(op, "x", f"the dtype of 'grad_y' ({grad_y.dtype})", str(x.dtype), hint))
    if selection.device != grad_y.device:
        hint = "move it with selection.to(grad_y.device)"
        expected = f"the device of 'grad_y' ({grad_y.device})"
        raise ValueError(message(op, "selection", expected, str(selection.device), hint))


def sampled_matmul(grad_y: Tensor, x: Tensor, selection: Selection) -> Tensor:
    """Computes selected entries of the gradient of a linear layer's weight, without forming the full gradient.

    The weight (O, I) of ``y = x W^T`` has the gradient ``grad_y^T x``. The result is ``selection.gather`` of that
    gradient.

    Args:
        grad_y: (..., O) float32, float64, float16 or bfloat16; any strides.
        x: (..., I) of the same dtype and leading shape.
        selection: :class:`Selection` of entries of the weight (O, I).

    Returns:
        (count) float32 (float64 for float64), in the selection's order. Not rounded back to half precision.
        Differentiable in both factors, any number of times.

    Raises:
        TypeError: a dtype is wrong, or ``selection`` is not a Selection.
        ValueError: a shape or device is wrong.

    Backends: C++ (CPU). On a GPU, Triton for bitmaps (a dense product that stores only selected entries) and CUDA for
    index lists (one dot product for each entry). Plain torch. Deterministic.

    Reference: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank
    Adaptation", ICLR 2025, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> grad_y, x = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> selection = pk.ops.Selection.from_mask(torch.tensor([[True, False, False], [False, True, True]]))
        >>> pk.ops.sampled_matmul(grad_y, x, selection)
        tensor([ 1.,  9., 12.])
    """
    _check("sampled_matmul", grad_y, x, selection)
    for name, t in (("grad_y", grad_y), ("x", x)):
        if t.dim() == 0:
            raise ValueError(message("sampled_matmul", name, "shape (..., features)", "shape ()"))
    if grad_y.shape[:-1] != x.shape[:-1]:
        expected = f"leading shape {tuple(grad_y.shape[:-1])} (the tokens of 'grad_y')"
        raise ValueError(message("sampled_matmul", "x", expected, f"shape {tuple(x.shape)}"))
    shape = (grad_y.shape[-1], x.shape[-1])
    if tuple(selection.shape) != shape:
        expected = f"a selection of a weight of shape {shape}"
        raise ValueError(message("sampled_matmul", "selection", expected, f"shape {tuple(selection.shape)}"))
    tokens = math.prod(grad_y.shape[:-1])  # symbolic in an export, unlike Size.numel()
    factors = grad_y.reshape(tokens, shape[0]), x.reshape(tokens, shape[1])
    return MATMUL.call(*factors, *selection.tensors, selection.count)


def _each(op: str, name: str, value: int | Sequence[int], dims: int, least: int) -> list[int]:
    """One int for each spatial dimension."""
    sizes = [value] * dims if isinstance(value, int) else list(value)
    if len(sizes) != dims or not all(isinstance(v, int) and v >= least for v in sizes):
        expected = f"an int of at least {least}, or {dims} of them"
        raise ValueError(message(op, name, expected, repr(value)))
    return sizes


def sampled_conv(
    grad_y: Tensor,
    x: Tensor,
    selection: Selection,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Computes selected entries of the gradient of a convolution's weight, without storing the full gradient or the
    unfolded input.

    Args:
        grad_y: (N, O, *out) float32, float64, float16 or bfloat16, with one to three spatial dimensions; any strides.
        x: (N, C, *in) of the same dtype, input of the convolution.
        selection: :class:`Selection` of entries of the weight (O, C / groups, *kernel).
        stride: an int, or one int for each spatial dimension, as in ``torch.nn.functional.conv2d``.
        padding: zero padding, in the form of ``stride``.
        dilation: dilation, in the form of ``stride``.
        groups: number of groups, a divisor of O and C.

    Returns:
        (count) float32 (float64 for float64), in the selection's order. Differentiable in both factors.

    Raises:
        TypeError: a dtype is wrong, or ``selection`` is not a Selection.
        ValueError: a shape, device or setting is wrong.

    Backends: as :func:`sampled_matmul`.

    Example:
        >>> import torch, probkernels as pk
        >>> x, grad_y = torch.arange(4.0).view(1, 1, 4), torch.ones(1, 1, 4)
        >>> selection = pk.ops.Selection.from_mask(torch.tensor([[[True, False, True]]]))
        >>> pk.ops.sampled_conv(grad_y, x, selection, padding=1)
        tensor([3., 6.])
    """
    _check("sampled_conv", grad_y, x, selection)
    dims = len(selection.shape) - 2
    if not 1 <= dims <= 3:
        expected = "a selection of a weight (O, C / groups, *kernel) with 1 to 3 spatial dimensions"
        raise ValueError(message("sampled_conv", "selection", expected, f"shape {tuple(selection.shape)}"))
    for name, t in (("grad_y", grad_y), ("x", x)):
        if t.dim() != dims + 2:
            raise ValueError(message("sampled_conv", name, f"{dims + 2} dimensions", f"shape {tuple(t.shape)}"))
    rows, channels, *kernel = selection.shape
    if not isinstance(groups, int) or groups < 1 or rows % groups or x.shape[1] != channels * groups:
        expected = f"a divisor of {rows} with which 'x' has {channels} x groups channels"
        raise ValueError(message("sampled_conv", "groups", expected, f"{groups!r} and shape {tuple(x.shape)}"))
    steps = _each("sampled_conv", "stride", stride, dims, 1)
    edges = _each("sampled_conv", "padding", padding, dims, 0)
    spreads = _each("sampled_conv", "dilation", dilation, dims, 1)
    out = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(x.shape[2:], edges, spreads, kernel, steps, strict=True)
    ]
    checks.shape("sampled_conv", "grad_y", grad_y, (x.shape[0], rows, *out), "(that of the convolution's output)")
    return CONV.call(grad_y, x, *selection.tensors, selection.count, kernel, steps, edges, spreads, groups)
