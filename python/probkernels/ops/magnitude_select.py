"""Selects entries by magnitude: ``magnitude_select`` with a threshold, ``magnitude_kth`` to find the threshold for a
number of entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.backend import Backend
from .._core.errors import message
from .._core.formats.bitmap import BLOCK, WORD
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import magnitude_select as reference
from .selection import KINDS, LARGEST, Selection

__all__ = ["magnitude_histogram", "magnitude_kth", "magnitude_select"]

WORD_MASK = 2**64 - 1

# --- kernels: w (...) is seen as N entries ---


def _bitmap(w: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialized words (ceil(N/64)) and ranks (ceil(N/512))."""
    n = w.numel()
    return (
        w.new_empty((n + WORD - 1) // WORD, dtype=torch.int64),
        w.new_empty((n + BLOCK - 1) // BLOCK, dtype=torch.int32),
    )


def _select_kernel(run: Backend, w: Tensor, threshold: float, largest: bool) -> tuple[Tensor, Tensor]:
    words, ranks = _bitmap(w)
    run.launch("magnitude_select", DTYPE_CODE[w.dtype], w.contiguous(), words, ranks, w.numel(), threshold, largest)
    return words, ranks


def _histogram_kernel(run: Backend, w: Tensor, level: int, prefix: int) -> Tensor:
    counts = w.new_zeros(reference.BINS, dtype=torch.int64)
    run.launch("magnitude_histogram", DTYPE_CODE[w.dtype], w.contiguous(), counts, w.numel(), level, prefix)
    return counts


def _example(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.sin(torch.arange(1110, dtype=torch.float64)).view(30, 37).to(device, dtype)


SELECT = Op(
    "magnitude_select",
    "(Tensor w, float threshold, bool largest) -> (Tensor, Tensor)",
    reference=reference.magnitude_select,
    kernels=dict.fromkeys(KINDS, _select_kernel),
    fake=lambda w, threshold, largest: _bitmap(w),
    examples=lambda device, dtype: [(_example(device, dtype), 0.3, False), (_example(device, dtype), 0.3, True)],
    differentiable=False,
)

HISTOGRAM = Op(
    "magnitude_histogram",
    "(Tensor w, int level, int prefix) -> Tensor",
    family="magnitude_select",
    reference=reference.magnitude_histogram,
    kernels=dict.fromkeys(KINDS, _histogram_kernel),
    fake=lambda w, level, prefix: w.new_empty(reference.BINS, dtype=torch.int64),
    examples=lambda device, dtype: [(_example(device, dtype), 0, 0), (_example(device, dtype), 1, 0x3F00)],
    differentiable=False,
)

# --- public functions ---


def _count(words: Tensor, ranks: Tensor) -> int:
    """The number of set bits, from the last block. The host reads it at once."""
    if words.numel() == 0:
        return 0
    first = (ranks.numel() - 1) * 8
    before, *last = torch.cat([ranks[-1:].long(), words[first:]]).tolist()
    return before + sum((word & WORD_MASK).bit_count() for word in last)


def magnitude_select(w: Tensor, threshold: float, *, largest: bool = False) -> Selection:
    """Selects the entries of ``w`` whose magnitude is strictly below ``threshold``, or strictly above it if
    ``largest``.

    Equals ``w.abs() < threshold`` (or ``>``) in torch, with the threshold rounded to w's dtype. NaN is never selected.
    Without ``largest``, a threshold of 0 selects nothing, and infinity selects all finite entries.

    Args:
        w: (...) float32, float64, float16 or bfloat16, N entries; any strides.
        threshold: threshold >= 0.
        largest: whether to select the magnitudes above the threshold instead of those below.

    Returns:
        The :class:`Selection`, on w's device. The host reads its size, which waits for the device once.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: the threshold is negative or NaN, or more than 2^31 - 1 entries are selected.

    Backends: C++ (CPU), CUDA, plain torch. Deterministic.

    Reference: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank
    Adaptation", ICLR 2025, section 3.

    Example:
        >>> import torch, probkernels as pk
        >>> w = torch.tensor([0.1, -0.3, 0.2, float("nan"), -0.05])
        >>> pk.ops.magnitude_select(w, 0.2).to_index().tolist()
        [0, 4]
        >>> pk.ops.magnitude_select(w, 0.2, largest=True).to_index().tolist()
        [1]
    """
    devices.refuse_waiting("magnitude_select")
    checks.float_tensor("magnitude_select", "w", w)
    _check_threshold(threshold)
    words, ranks = SELECT.call(w, float(threshold), largest)
    if w.numel() > LARGEST and (ranks[1:] < ranks[:-1]).any():  # ranks are int32 and went round
        hint = "lower the threshold, or split the weight"
        raise ValueError(message("magnitude_select", "w", f"at most {LARGEST} selected entries", "more", hint))
    return Selection._of_bitmap(words, ranks, _count(words, ranks), w.shape)


def _check_threshold(threshold: float) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(message("magnitude_select", "threshold", "a number", checks.describe(threshold)))
    if not threshold >= 0:
        raise ValueError(message("magnitude_select", "threshold", "a number of at least 0", repr(threshold)))


def magnitude_histogram(w: Tensor, level: int = 0, prefix: int = 0) -> Tensor:
    """Counts how often each 16-bit digit occurs in the magnitudes of ``w``. NaN is not counted.

    A magnitude is the bit pattern of |w| as float32 (float64 for float64). Bit patterns have the same order as the
    numbers.

    Args:
        w: (...) float32, float64, float16 or bfloat16; any strides.
        level: index of the digit, from 0 (the highest) to 1 (3 for float64).
        prefix: counts only entries whose digits above ``level`` equal these. 0 for level 0.

    Returns:
        (65536) int64. The histogram of a tensor is the sum of the histograms of its parts.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: there is no such level, or the prefix has more digits than there are above it.

    Example:
        >>> import torch, probkernels as pk
        >>> counts = pk.ops.magnitude_histogram(torch.tensor([1.0, -1.0, 2.0]))
        >>> counts.nonzero()[:, 0].tolist() == [0x3F80, 0x4000], counts[0x3F80].item()
        (True, 2)
    """
    checks.float_tensor("magnitude_histogram", "w", w)
    checks.one_of("magnitude_histogram", "level", level, range(reference.levels(w.dtype)))
    if not 0 <= prefix < 1 << 16 * level:
        expected = f"{level} digits of 16 bits, below {1 << 16 * level}"
        raise ValueError(message("magnitude_histogram", "prefix", expected, str(prefix)))
    return HISTOGRAM.call(w, level, prefix)


def magnitude_kth(
    tensors: Sequence[Tensor], k: int, largest: bool = False, reduce: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Finds the k-th smallest (or largest) magnitude among all entries of several tensors, exactly.

    Two passes over the tensors (four for float64) count digits; nothing is copied or sorted. To select the k smallest
    of distinct magnitudes, use the (k + 1)-th as threshold, because :func:`magnitude_select` compares strictly.

    Args:
        tensors: floating-point tensors of any shapes, strides, dtypes and devices. If float64 is among them, all count
            as float64, and the other tensors are copied one at a time.
        k: rank, from 1 to the number of entries that are not NaN.
        largest: whether to count from the largest magnitude down.
        reduce: function applied to each histogram (65536) int64. Use it to sum the histograms of processes that each
            hold a part of the tensors; all must get the same sum.

    Returns:
        The magnitude, rounded like the dtype of its tensor.

    Raises:
        TypeError: ``tensors`` holds anything but floating-point tensors, or ``k`` is not an int.
        ValueError: ``k`` is out of range.

    Example:
        >>> import torch, probkernels as pk
        >>> tensors = [torch.tensor([[0.5, -4.0]]), torch.tensor([3.0, -1.0, 2.0])]
        >>> pk.ops.magnitude_kth(tensors, 2), pk.ops.magnitude_kth(tensors, 1, largest=True)
        (1.0, 4.0)
    """
    devices.refuse_waiting("magnitude_kth")
    for tensor in tensors:
        checks.float_tensor("magnitude_kth", "tensors", tensor)
    checks.integer("magnitude_kth", "k", k, -(2**63))  # its range depends on the histogram
    wide = torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32
    count, prefix = reference.levels(wide), 0
    for level in range(count):
        histogram = _sum_histograms(tensors, wide, level, prefix)
        histogram = histogram if reduce is None else reduce(histogram)
        digit, k = _digit_of(histogram.cpu(), k, largest)
        prefix = prefix << 16 | digit
    bits, number = (torch.int64, torch.float64) if count == 4 else (torch.int32, torch.float32)
    return torch.tensor(prefix, dtype=bits).view(number).item()


def _sum_histograms(tensors: Sequence[Tensor], wide: torch.dtype, level: int, prefix: int) -> Tensor:
    device = tensors[0].device if tensors else None
    total = torch.zeros(reference.BINS, dtype=torch.int64, device=device)
    for tensor in tensors:
        same = tensor.detach().double() if wide is torch.float64 else tensor
        total += magnitude_histogram(same, level, prefix).to(total.device)
    return total


def _digit_of(histogram: Tensor, k: int, largest: bool) -> tuple[int, int]:
    """The digit of the k-th entry, and its rank among the entries with this digit. histogram (65536)."""
    total = int(histogram.sum())
    if not 1 <= k <= total:
        raise ValueError(message("magnitude_kth", "k", f"a number in [1, {total}]", str(k), "NaN does not count"))
    if largest:
        k = total + 1 - k
    through = histogram.cumsum(0)
    digit = int(torch.searchsorted(through, k))
    within = k - int(through[digit] - histogram[digit])
    return digit, int(histogram[digit]) + 1 - within if largest else within
