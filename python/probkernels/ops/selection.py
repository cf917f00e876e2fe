"""The class ``Selection``, a set of entries of a weight tensor in the smaller of two encodings, and its ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.backend import Backend
from .._core.errors import message
from .._core.formats import bitmap
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import selection as reference

__all__ = ["Selection"]

SPARSE = 30  # an index list is smaller than a bitmap when fewer than one entry in thirty is selected
LARGEST = 2**31 - 1  # what an int32 position or rank can say
KINDS = ("cpu", "cuda")

# --- kernels: w (...) is seen as N entries ---


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _check_sizes(op: str, index: Any, words: Any, ranks: Any, count: int, entries: int) -> None:
    """Refuses tensors that the kernels would read beyond. The positions and bits themselves are not checked."""
    sizes: dict[str, tuple[Any, torch.dtype, int]] = {"index": (index, torch.int32, count)}
    if index is None:
        blocks = -(-entries // bitmap.BLOCK)
        sizes = {"words": (words, torch.int64, -(-entries // bitmap.WORD)), "ranks": (ranks, torch.int32, blocks)}
    for name, (tensor, dtype, size) in sizes.items():
        if tensor is None or tensor.dtype is not dtype or tensor.shape != (size,):
            got = "None" if tensor is None else f"{tensor.dtype}, shape {tuple(tensor.shape)}"
            raise ValueError(message(op, name, f"{dtype}, shape ({size},)", got, "pass the tensors of a Selection"))


def _gather_kernel(run: Backend, w: Tensor, index: Any, words: Any, ranks: Any, count: int) -> Tensor:
    values = w.new_empty(count)
    if count:
        _check_sizes("selection_gather", index, words, ranks, count, w.numel())
        tensors = _dense(w, index, words, ranks)
        run.launch("selection_gather", DTYPE_CODE[w.dtype], *tensors, values, w.numel(), count)
    return values


def _scatter_kernel(run: Backend, w: Tensor, values: Tensor, index: Any, words: Any, ranks: Any) -> None:
    count = values.numel()
    if count:
        _check_sizes("selection_scatter_", index, words, ranks, count, w.numel())
        dense = w.contiguous()
        tensors = _dense(values.to(w.dtype), index, words, ranks)
        run.launch("selection_scatter", DTYPE_CODE[w.dtype], dense, *tensors, w.numel(), count)
        if dense is not w:
            w.copy_(dense)


def _index_kernel(run: Backend, words: Tensor, ranks: Tensor, count: int) -> Tensor:
    index = words.new_empty(count, dtype=torch.int32)
    if count:
        entries = bitmap.WORD * words.numel()
        _check_sizes("selection_index", None, words, ranks, count, entries)
        run.launch("selection_index", *_dense(words, ranks), index, entries, count)
    return index


# --- examples: what doctor and the composition tests run every op on ---


def _example(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Example w (30, 37), with a selection as a mask and as a list."""
    w = torch.sin(torch.arange(1110, dtype=torch.float64)).view(30, 37).to(device, dtype)
    mask = (torch.arange(1110, device=device) * 7 % 11 < 4).view(30, 37)
    return w, mask, mask.view(-1).nonzero()[:, 0].to(torch.int32)


def _gather_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    w, mask, index = _example(device, dtype)
    return [(w, None, *bitmap.pack(mask), index.numel()), (w, index, None, None, index.numel())]


def _scatter_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    return [(w, torch.linspace(1, 2, n, device=device), *rest) for w, *rest, n in _gather_examples(device, dtype)]


INDEX = Op(
    "selection_index",
    "(Tensor words, Tensor ranks, int count) -> Tensor",
    family="selection",
    reference=reference.selection_index,
    kernels=dict.fromkeys(KINDS, _index_kernel),
    fake=lambda words, ranks, count: words.new_empty(count, dtype=torch.int32),
    examples=lambda device, dtype: [_gather_examples(device, dtype)[0][2:]],
    dtypes=(torch.int64,),
    differentiable=False,
)

# --- selection_gather: its gradient is zero but for the selected entries ---


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    w, index, words, ranks, count = inputs
    ctx.save_for_backward(index, words, ranks)
    ctx.shape, ctx.count = w.shape, count


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    index, words, ranks = ctx.saved_tensors
    entries = ctx.shape.numel()
    if index is None and entries <= LARGEST + 1:
        index = INDEX.call(words, ranks, ctx.count)
    zeros = torch.zeros(entries, dtype=grad.dtype, device=grad.device)
    return zeros.scatter(0, bitmap.positions(index, words, ctx.count), grad).view(ctx.shape), None, None, None, None


GATHER = Op(
    "selection_gather",
    "(Tensor w, Tensor? index, Tensor? words, Tensor? ranks, int count) -> Tensor",
    family="selection",
    reference=reference.selection_gather,
    kernels=dict.fromkeys(KINDS, _gather_kernel),
    fake=lambda w, index, words, ranks, count: w.new_empty(count),
    setup=_gather_setup,
    backward=_gather_backward,
    examples=_gather_examples,
)

SCATTER = Op(
    "selection_scatter_",
    "(Tensor(a!) w, Tensor values, Tensor? index, Tensor? words, Tensor? ranks) -> ()",
    family="selection",
    reference=reference.selection_scatter_,
    kernels=dict.fromkeys(KINDS, _scatter_kernel),
    fake=lambda w, values, index, words, ranks: None,
    examples=_scatter_examples,
)

# --- the class ---


def _prefers_index(count: int, entries: int) -> bool:
    return count * SPARSE < entries and entries <= LARGEST + 1


def _own(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous copy, so that later changes of the caller's tensor do not reach a selection."""
    return tensor.to(dtype=dtype or tensor.dtype, copy=True, memory_format=torch.contiguous_format)


def _check_fits(count: int) -> None:
    if count > LARGEST:
        hint = "split the weight, or select less of it"
        raise ValueError(message("Selection", "count", f"at most {LARGEST} selected entries", str(count), hint))


@dataclass(frozen=True, eq=False)
class Selection:
    """A set of entries of one weight tensor.

    Entries are numbered in row-major order and kept in ascending order. A selection of fewer than one entry in thirty
    is a list ``index`` (4 bytes per selected entry). A larger one is a bitmap ``words`` with running counts ``ranks``
    (0.133 bytes per entry of the weight). Make one with :meth:`from_mask`, :meth:`from_index` or
    :func:`probkernels.ops.magnitude_select`.

    Attributes:
        shape: shape of the weight, N entries in all.
        count: number of selected entries, at most 2^31 - 1.
        index: (count) int32 positions, or None.
        words: (ceil(N/64)) int64, or None. Bit b of word i, counted from the least significant, says whether entry 64 i
            + b is selected. Bits past N are 0.
        ranks: (ceil(N/512)) int32, or None: number of selected entries before entry 512 j.

    Example:
        >>> import torch, probkernels as pk
        >>> w = torch.tensor([[0.1, -2.0], [3.0, -0.4]])
        >>> selection = pk.ops.Selection.from_mask(w.abs() < 1)
        >>> selection.count, selection.to_index().tolist(), selection.gather(w).tolist()
        (2, [0, 3], [0.10000000149011612, -0.4000000059604645])
        >>> selection.scatter_(w, torch.tensor([7.0, 8.0]))
        >>> w
        tensor([[ 7., -2.],
                [ 3.,  8.]])
    """

    shape: torch.Size
    count: int
    index: Tensor | None
    words: Tensor | None
    ranks: Tensor | None

    @classmethod
    def from_index(cls, index: Tensor, shape: Any) -> Selection:
        """Selects the entries at ``index`` (count) int32 or int64: row-major positions in ascending order without
        repeats.

        Raises:
            TypeError: ``index`` is not an int32 or int64 tensor.
            ValueError: ``index`` is not one-dimensional, not ascending, or exceeds the weight.
        """
        devices.refuse_waiting("Selection.from_index")
        shape = torch.Size(shape)
        entries = shape.numel()
        if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                message("Selection.from_index", "index", "an int32 or int64 tensor", checks.describe(index))
            )
        if index.dim() != 1:
            raise ValueError(message("Selection.from_index", "index", "shape (count)", f"shape {tuple(index.shape)}"))
        inside = (index[:1] >= 0).all() & (index[-1:] < entries).all()
        if not (inside & (index[1:] > index[:-1]).all()):
            expected = f"ascending positions without repeats in [0, {entries})"
            hint = "sort it, for example with index.unique()"
            got = checks.not_rising(index, entries - 1, 1)
            raise ValueError(message("Selection.from_index", "index", expected, got, hint))
        if _prefers_index(index.numel(), entries):
            return cls(shape, index.numel(), _own(index, torch.int32), None, None)
        mask = torch.zeros(entries, dtype=torch.bool, device=index.device)
        return cls.from_mask(mask.index_fill_(0, index.long(), True).view(shape))

    @classmethod
    def from_bitmap(cls, words: Tensor, ranks: Tensor, count: int, shape: Any) -> Selection:
        """Selects the entries whose bits are set in ``words``.

        Raises:
            TypeError: ``words`` is not int64, or ``ranks`` not int32.
            ValueError: a size does not fit ``shape``, ``ranks`` or ``count`` do not fit ``words``, or ``count`` does
                not fit an int32.
        """
        devices.refuse_waiting("Selection.from_bitmap")
        shape = torch.Size(shape)
        entries = shape.numel()
        for name, value, dtype, unit in (
            ("words", words, torch.int64, bitmap.WORD),
            ("ranks", ranks, torch.int32, bitmap.BLOCK),
        ):
            if not isinstance(value, Tensor) or value.dtype is not dtype:
                raise TypeError(message("Selection.from_bitmap", name, f"a {dtype} tensor", checks.describe(value)))
            checks.shape("Selection.from_bitmap", name, value, (-(-entries // unit),), f"(a weight of {entries})")
        if not 0 <= count <= entries:
            raise ValueError(message("Selection.from_bitmap", "count", f"a number in [0, {entries}]", str(count)))
        _check_fits(count)
        if not (words.is_meta or bitmap.is_bitmap(words, ranks, count, entries)):
            expected = "bits within the weight, the ranks of their blocks and their number"
            raise ValueError(message("Selection.from_bitmap", "words", expected, "bits that 'ranks' or 'count' belie"))
        return cls._of_bitmap(_own(words), _own(ranks), count, shape)

    @classmethod
    def _of_bitmap(cls, words: Tensor, ranks: Tensor, count: int, shape: torch.Size) -> Selection:
        """Like :meth:`from_bitmap`, for a bitmap that needs no checks."""
        entries = shape.numel()
        _check_fits(count)
        if _prefers_index(count, entries):
            return cls(shape, count, INDEX.call(words, ranks, count), None, None)
        return cls(shape, count, None, words.contiguous(), ranks.contiguous())

    @classmethod
    def from_mask(cls, mask: Tensor) -> Selection:
        """Selects the entries where ``mask``, bool of the weight's shape, is True.

        Raises:
            TypeError: ``mask`` is not a bool tensor.
            ValueError: more than 2^31 - 1 entries are selected.
        """
        devices.refuse_waiting("Selection.from_mask")
        checks.bool_tensor("Selection.from_mask", "mask", mask)
        count = int(mask.sum())
        _check_fits(count)
        if _prefers_index(count, mask.numel()):
            return cls(mask.shape, count, mask.reshape(-1).nonzero()[:, 0].to(torch.int32), None, None)
        return cls(mask.shape, count, None, *bitmap.pack(mask))

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``(index, words, ranks)``, as the ops take them."""
        return self.index, self.words, self.ranks

    @property
    def nbytes(self) -> int:
        """Number of bytes of the encoding."""
        return sum(t.nbytes for t in self.tensors if t is not None)

    @property
    def device(self) -> torch.device:
        """Device of the encoding."""
        return next(t.device for t in self.tensors if t is not None)

    def to(self, device: torch.device | str) -> Selection:
        """Moves the encoding to ``device``. Returns a selection of the same entries."""
        return Selection(self.shape, self.count, *(None if t is None else t.to(device) for t in self.tensors))

    def to_index(self) -> Tensor:
        """The positions in ascending order: (count) int32.

        Raises:
            ValueError: the weight has more than 2^31 entries; use :meth:`to_mask`.
        """
        if self.index is not None:
            return self.index.clone()  # as with a bitmap, changes in place do not reach the selection
        if self.shape.numel() > LARGEST + 1:
            expected, hint = f"at most {LARGEST + 1} entries", "use to_mask()"
            raise ValueError(message("Selection.to_index", "shape", expected, f"{self.shape.numel()}", hint))
        assert self.words is not None
        assert self.ranks is not None
        return INDEX.call(self.words, self.ranks, self.count)

    def to_mask(self) -> Tensor:
        """Bool of the weight's shape, True at the selected entries."""
        entries = self.shape.numel()
        if self.words is not None:
            return bitmap.unpack(self.words, entries).view(self.shape)
        assert self.index is not None
        mask = torch.zeros(entries, dtype=torch.bool, device=self.index.device)
        return mask.index_fill_(0, self.index.long(), True).view(self.shape)

    def gather(self, w: Tensor) -> Tensor:
        """The selected entries of ``w`` in order: (count) in w's dtype, differentiable.

        Raises:
            TypeError: ``w`` is not floating-point.
            ValueError: ``w`` has another shape or device than the selection.
        """
        self._check("gather", w)
        return GATHER.call(w, *self.tensors, self.count)

    def scatter_(self, w: Tensor, values: Tensor) -> None:
        """Writes ``values`` (count), cast to w's dtype, over the selected entries of ``w``.

        Raises:
            TypeError: ``w`` or ``values`` is not floating-point.
            ValueError: a shape or device is wrong.
        """
        self._check("scatter_", w)
        self._check_values("scatter_", w, values)
        SCATTER.call(w, values, *self.tensors)

    def scatter(self, w: Tensor, values: Tensor) -> Tensor:
        """A copy of ``w`` whose selected entries are ``values`` (count), cast to w's dtype. Differentiable in both.

        Raises:
            TypeError: ``w`` or ``values`` is not floating-point.
            ValueError: a shape or device is wrong.
        """
        self._check("scatter", w)
        self._check_values("scatter", w, values)
        index, words, _ = self.tensors
        at = bitmap.positions(index, words, self.count)
        return w.reshape(-1).scatter(0, at, values.to(w.dtype)).view(w.shape)

    def within(self, keep: Tensor) -> Selection:
        """Selects those of the selected entries for which ``keep`` (count) bool is True.

        Raises:
            TypeError: ``keep`` is not a bool tensor.
            ValueError: ``keep`` does not have one entry for each selected entry.
        """
        checks.bool_tensor("Selection.within", "keep", keep)
        checks.shape("Selection.within", "keep", keep, (self.count,), "(one a selected entry)")
        if self.index is not None:
            kept = self.index[keep]
            return Selection(self.shape, kept.numel(), kept, None, None)
        mask = self.to_mask()
        return Selection.from_mask(mask.masked_scatter(mask, keep))

    def _check(self, method: str, w: Tensor) -> None:
        op = f"Selection.{method}"
        checks.float_tensor(op, "w", w)
        checks.shape(op, "w", w, self.shape, "(the selection's)")
        if w.device != self.device:
            hint = "move it with selection.to(w.device)"
            raise ValueError(message(op, "w", f"the selection's device ({self.device})", str(w.device), hint))

    def _check_values(self, method: str, w: Tensor, values: Tensor) -> None:
        op = f"Selection.{method}"
        checks.float_tensor(op, "values", values)
        checks.shape(op, "values", values, (self.count,), "(one value a selected entry)")
        checks.same_device(op, "values", values, w, "w")
