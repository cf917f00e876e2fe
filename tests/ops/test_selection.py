"""Selected entries on every backend: both encodings against torch's boolean masks, exactly."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels._core import native
from probkernels._core.formats.bitmap import count_bits, is_bitmap, pack, unpack
from probkernels.ops import Selection
from probkernels.ops.selection import GATHER, INDEX, SCATTER
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZES = [0, 1, 63, 64, 65, 511, 512, 513, 1031, 4099]
DENSITIES = [0.0, 0.01, 0.06, 0.5, 1.0]
each_size = pytest.mark.parametrize("n", SIZES)


def as_list(mask: Tensor) -> Selection:
    index = mask.reshape(-1).nonzero()[:, 0].to(torch.int32)
    return Selection(mask.shape, index.numel(), index, None, None)


def as_bitmap(mask: Tensor) -> Selection:
    return Selection(mask.shape, int(mask.sum()), None, *pack(mask))


each_encoding = pytest.mark.parametrize("encode", [as_list, as_bitmap])


def masks(n: int, device: torch.device) -> list[Tensor]:
    ends = torch.zeros(n, dtype=torch.bool)
    ends[:1] = ends[-1:] = True
    return [mask.to(device) for mask in (*(torch.rand(n) < d for d in DENSITIES), ends)]


def check_round_trip(mask: Tensor, selection: Selection) -> None:
    assert selection.count == mask.sum()
    assert selection.shape == mask.shape
    assert torch.equal(selection.to_mask(), mask)
    index = selection.to_index()
    assert index.dtype is torch.int32
    assert torch.equal(index.long(), mask.reshape(-1).nonzero()[:, 0])
    again = Selection.from_index(index, mask.shape)
    assert torch.equal(again.to_mask(), mask)


# --- the encodings ---


@each_encoding
@each_size
def test_mask_to_selection_to_index_to_mask(on: torch.device, n: int, encode: Any) -> None:
    for mask in masks(n, on):
        check_round_trip(mask, encode(mask))


@settings(max_examples=60, deadline=None)
@given(bits=st.lists(st.booleans(), max_size=1300), fill=st.booleans(), rows=st.integers(1, 3))
def test_round_trips_of_any_mask(bits: list[bool], fill: bool, rows: int) -> None:
    mask = torch.tensor(bits * rows + [fill] * 70 * rows, dtype=torch.bool).view(rows, -1)
    keep = torch.rand(int(mask.sum())) < 0.5
    kept = mask.clone()
    kept[mask] = keep
    for selection in (as_list(mask), as_bitmap(mask), Selection.from_mask(mask)):
        check_round_trip(mask, selection)
        check_round_trip(kept, selection.within(keep))


@each_size
def test_words_and_ranks_say_what_they_should(n: int) -> None:
    for mask in masks(n, torch.device("cpu")):
        words, ranks = pack(mask)
        bits = [word >> b & 1 for word in words.tolist() for b in range(64)]
        assert bits == mask.int().tolist() + [0] * (-n % 64)
        assert ranks.tolist() == [int(mask[:first].sum()) for first in range(0, n, 512)]
        assert torch.equal(unpack(words, n), mask)


@pytest.mark.parametrize(("count", "is_list"), [(0, True), (33, True), (34, False), (1000, False)])
def test_the_smaller_encoding_is_chosen(count: int, is_list: bool) -> None:
    mask = torch.arange(1000) < count
    made = [Selection.from_mask(mask), Selection.from_index(torch.arange(count), (1000,))]
    made.append(Selection.from_bitmap(*pack(mask), count, (1000,)))
    for selection in made:
        assert (selection.index is not None) == is_list
        assert (selection.words is None) == (selection.ranks is None) == is_list
        assert selection.nbytes <= min(as_list(mask).nbytes, as_bitmap(mask).nbytes + 16)
        check_round_trip(mask, selection)


def test_bytes_of_the_encodings() -> None:
    mask = torch.arange(1 << 16) % 16 == 0
    assert as_list(mask).nbytes == 4 * 4096
    assert as_bitmap(mask).nbytes == (1 << 16) / 8 + (1 << 16) / 128


@each_encoding
def test_copies_keep_everything(encode: Any) -> None:
    mask = torch.rand(10, 70) < 0.2
    selection = encode(mask)
    for other in (copy.deepcopy(selection), pickle.loads(pickle.dumps(selection)), selection.to("cpu")):
        check_round_trip(mask, other)
        assert other.device == mask.device
    assert selection.to("meta").device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_selection_owns_its_memory(dtype: torch.dtype) -> None:
    mask, index = torch.arange(640) % 64 == 5, torch.arange(5, 640, 64).to(dtype)
    listed = Selection.from_index(index, (640,))
    index.zero_()
    listed.to_index().zero_()
    assert torch.equal(listed.to_mask(), mask)
    mask = torch.arange(640) % 2 == 0
    words, ranks = pack(mask)
    packed = Selection.from_bitmap(words, ranks, 320, (640,))
    words.zero_()
    ranks.zero_()
    assert torch.equal(packed.gather(torch.arange(640.0)), torch.arange(0, 640.0, 2))
    assert torch.equal(packed.to_mask(), mask)


def test_the_ops_refuse_tensors_that_are_too_short() -> None:
    w, mask = torch.randn(600), torch.arange(600) % 2 == 0
    index, (words, ranks) = mask.nonzero()[:, 0].int(), pack(mask)
    gather, scatter = torch.ops.probkernels.selection_gather, torch.ops.probkernels.selection_scatter_
    for tensors in (
        (index[:-1], None, None),
        (index.long(), None, None),
        (None, words[:-1], ranks),
        (None, words, ranks[:-1]),
        (None, words, ranks.long()),
        (None, words, None),
        (None, None, None),
    ):
        with pytest.raises(ValueError, match=r"selection_gather: argument .* Hint: pass the tensors of a Selection"):
            gather(w, *tensors, 300)
        with pytest.raises(ValueError, match=r"selection_scatter_: argument .* Hint: pass the tensors of a Selection"):
            scatter(w, torch.zeros(300), *tensors)
    with pytest.raises(ValueError, match="selection_index: argument 'ranks'"):
        torch.ops.probkernels.selection_index(words, ranks[:-1], 300)
    assert torch.equal(gather(w, index, None, None, 300), gather(w, None, words, ranks, 300))


# --- reading and writing ---


@each_encoding
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather_and_scatter_equal_boolean_indexing(on: torch.device, dtype: torch.dtype, encode: Any) -> None:
    for n in SIZES:
        for mask in masks(n, on):
            w, selection = torch.randn(n, device=on).to(dtype), encode(mask)
            values = selection.gather(w)
            assert values.dtype is dtype
            assert torch.equal(values, w[mask])
            written, fresh = w.clone(), torch.randn(selection.count, device=on)
            selection.scatter_(written, fresh)
            w[mask] = fresh.to(dtype)
            assert torch.equal(written, w)


@each_encoding
def test_every_bit_of_a_value_moves(on: torch.device, encode: Any) -> None:
    """NaN payloads, infinities, signed zeros and subnormals: values are moved, never computed with."""
    bits = torch.tensor([0x7F800001, -0x3FFFFF, 0x7F800000, -0x80000000, 1, 0x7FC12345], dtype=torch.int32)
    w = bits.to(on).view(torch.float32)
    selection = encode(torch.ones(6, dtype=torch.bool, device=on))
    target = torch.zeros(6, device=on)
    selection.scatter_(target, selection.gather(w))
    assert torch.equal(target.view(torch.int32), w.view(torch.int32))


@each_encoding
def test_strided_weights(on: torch.device, encode: Any) -> None:
    mask = torch.rand(30, 50, device=on) < 0.3
    selection = encode(mask)
    w = torch.randn(50, 30, device=on).t()
    untouched = torch.randn(30, 50, 2, device=on)
    assert not w.is_contiguous()
    assert torch.equal(selection.gather(w), w[mask])
    target, fresh = untouched.clone(), torch.randn(2 * selection.count, device=on)[::2]
    selection.scatter_(target[..., 1], fresh)
    expected = untouched.clone()
    expected[..., 1][mask] = fresh
    assert torch.equal(target, expected)


@each_encoding
def test_the_gradient_of_gather(on: torch.device, encode: Any) -> None:
    mask = torch.rand(20, 90, device=on) < 0.2
    w = torch.randn(20, 90, device=on, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(int(mask.sum()), device=on, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(encode(mask).gather(w), w, grad, create_graph=True)
    (expected,) = torch.autograd.grad(w[mask], w, grad)
    assert torch.equal(got, expected)
    (second,) = torch.autograd.grad(got, grad, w.detach())
    assert torch.equal(second, w.detach()[mask])


def test_scatter_counts_as_a_change_and_refuses_to_be_differentiated() -> None:
    selection = Selection.from_mask(torch.tensor([True, False, True]))
    w = torch.zeros(3, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"selection_scatter_ changes 'w' in place.*no_grad"):
        selection.scatter_(w, torch.ones(2))
    product = (w * w).sum()
    with torch.no_grad():
        selection.scatter_(w, torch.ones(2))
    assert w.tolist() == [1, 0, 1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_compiled_methods() -> None:
    selection = Selection.from_mask(torch.arange(600) % 3 == 0)
    w = torch.randn(600)

    def double(w: Tensor) -> Tensor:
        values = 2 * selection.gather(w)
        w = w.clone()
        selection.scatter_(w, values)
        return w

    assert torch.equal(torch.compile(double, backend="aot_eager", fullgraph=True)(w), double(w))


@each_encoding
def test_threads_do_not_change_a_bit(encode: Any) -> None:
    mask = torch.rand(300_007) < 0.1
    selection, w = encode(mask), torch.randn(300_007)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            values, target = selection.gather(w), torch.zeros_like(w)
            selection.scatter_(target, values)
            assert torch.equal(values, w[mask])
            assert torch.equal(target, w * mask)
            assert torch.equal(selection.to_index().long(), mask.nonzero()[:, 0])
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_more_than_two_to_the_31_entries() -> None:
    mask = torch.zeros(2**31 + 700, dtype=torch.bool, device="cuda")
    mask[::7] = mask[-1] = True
    selection = Selection.from_mask(mask)
    w = torch.arange(2**31 + 700, device="cuda").remainder_(1021).half()
    assert selection.words is not None
    assert torch.equal(selection.gather(w), w[mask])


# --- errors ---


def test_sizes_beyond_int32() -> None:
    words = torch.empty(2**26, dtype=torch.int64, device="meta")
    ranks = torch.empty(2**23, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match="'count': expected at most 2147483647 selected entries, got 2147483648"):
        Selection.from_bitmap(words, ranks, 2**31, (2**16, 2**16))
    huge = Selection.from_bitmap(words, ranks, 5, (2**16, 2**16))
    assert huge.index is None  # however few: positions do not fit
    with pytest.raises(ValueError, match=r"Selection.to_index: argument 'shape'.*use to_mask"):
        huge.to_index()


@given(bits=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), cut=st.integers(0, 63))
def test_count_bits_and_what_a_bitmap_is(bits: list[int], cut: int) -> None:
    words = torch.tensor(bits)
    assert count_bits(words).tolist() == [(b & 2**64 - 1).bit_count() for b in bits]
    n = 64 * len(bits) - cut
    mask = unpack(words, n)
    words, ranks = pack(mask)
    count = int(mask.sum())
    assert is_bitmap(words, ranks, count, n)
    assert not is_bitmap(words, ranks, count + 1, n)
    assert not is_bitmap(words, ranks + 1, count, n)
    assert not is_bitmap(words ^ (torch.arange(len(bits)) == 0).long(), ranks, count, n)
    assert cut == 0 or not is_bitmap(words | -(2**63), ranks, count + 1, n)


def test_a_bitmap_that_lies_is_refused() -> None:
    words, ranks = pack(torch.ones(1000, dtype=torch.bool))
    with pytest.raises(ValueError, match="'words': expected bits within the weight"):
        Selection.from_bitmap(words, ranks - 600, 1000, (1000,))


TWO = torch.tensor([True, False, True])
BAD = [
    (lambda s: Selection.from_mask(torch.ones(3)), TypeError, "'mask': expected a bool tensor, got a torch.float32"),
    (lambda s: Selection.from_index([0, 2], (3,)), TypeError, "'index': expected an int32 or int64 tensor, got list"),
    (lambda s: Selection.from_index(torch.ones(2), (3,)), TypeError, "'index'.*torch.float32"),
    (lambda s: Selection.from_index(torch.ones(1, 1).int(), (3,)), ValueError, r"'index': expected shape \(count\)"),
    (lambda s: Selection.from_index(torch.tensor([2, 0]), (3,)), ValueError, r"ascending positions .* in \[0, 3\)"),
    (lambda s: Selection.from_index(torch.tensor([1, 1]), (3,)), ValueError, "without repeats.*unique"),
    (lambda s: Selection.from_index(torch.tensor([0, 3]), (3,)), ValueError, "'index'"),
    (lambda s: Selection.from_index(torch.tensor([-1, 0]), (3,)), ValueError, "'index'"),
    (lambda s: Selection.from_bitmap(s.words.int(), s.ranks, 2, (3,)), TypeError, "'words': expected a torch.int64"),
    (lambda s: Selection.from_bitmap(s.words, s.ranks.long(), 2, (3,)), TypeError, "'ranks': expected a torch.int32"),
    (lambda s: Selection.from_bitmap(s.words, s.ranks, 2, (65,)), ValueError, r"'words': expected shape \(2,\)"),
    (lambda s: Selection.from_bitmap(s.words, s.ranks, 4, (3,)), ValueError, r"'count': .* \[0, 3\], got 4"),
    (lambda s: s.gather([1.0]), TypeError, "Selection.gather: argument 'w': expected a floating-point tensor"),
    (lambda s: s.gather(torch.ones(3).int()), TypeError, "'w'.*torch.int32"),
    (lambda s: s.gather(torch.ones(4)), ValueError, r"'w': expected shape \(3,\) \(the selection's\)"),
    (lambda s: s.gather(torch.ones(3, device="meta")), ValueError, "'w': expected the selection's device.*move it"),
    (lambda s: s.scatter_(torch.ones(3, 1), torch.ones(2)), ValueError, "Selection.scatter_: argument 'w'"),
    (lambda s: s.scatter_(torch.ones(3), torch.ones(3)), ValueError, r"'values': expected shape \(2,\)"),
    (lambda s: s.scatter_(torch.ones(3), torch.ones(2).int()), TypeError, "'values'"),
    (lambda s: s.scatter_(torch.ones(3), torch.ones(2, device="meta")), ValueError, "'values': expected the device"),
    (lambda s: s.within(torch.ones(2)), TypeError, "'keep': expected a bool tensor"),
    (lambda s: s.within(TWO), ValueError, r"'keep': expected shape \(2,\)"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(as_bitmap(TWO))


def test_launchers_refuse_tensors_without_memory() -> None:
    assert native.module is not None
    empty, w = torch.empty(1, device="meta"), torch.ones(3)
    with pytest.raises(ValueError, match="null data pointer"):
        native.module.selection_gather_cpu(0, empty, None, w, w, w, 3, 1, 1)
    with pytest.raises(ValueError, match="unknown dtype code 9"):
        native.module.selection_scatter_cpu(9, w, w, w, None, None, 3, 1, 1)


def test_the_ops_are_in_torch_ops() -> None:
    assert {op.op for op in (GATHER, INDEX, SCATTER)} == {
        getattr(torch.ops.probkernels, f"selection_{name}").default for name in ("gather", "index", "scatter_")
    }
    assert pk.ops.Selection is Selection
