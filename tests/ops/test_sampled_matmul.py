"""The sampled products on every backend: against the dense gradient in float64 and torch's own convolutions."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from probkernels._core.formats.bitmap import pack
from probkernels.ops import Selection
from probkernels.ops.sampled_matmul import MATMUL
from torch import Tensor

from tests.tolerances import SUM, assert_close

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# tokens, rows, columns, density: 1, primes, 2^k +- 1, more than a block of columns, of tokens and of a bitmap
SHAPES = [
    (1, 1, 1, 1.0),
    (1, 3, 5, 0.5),
    (7, 13, 29, 0.3),
    (33, 64, 40, 0.02),
    (65, 31, 129, 0.1),
    (150, 17, 70, 1.0),
    (530, 9, 33, 0.05),
]


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def encodings(mask: Tensor, device: torch.device) -> list[Selection]:
    """The same entries as a list and as a bitmap, whichever is smaller."""
    count, index = int(mask.sum()), mask.flatten().nonzero()[:, 0].int()
    listed = Selection(mask.shape, count, index, None, None)
    return [listed.to(device), Selection(mask.shape, count, None, *pack(mask)).to(device)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "rows", "columns", "density"), SHAPES, ids=str)
def test_equals_the_gathered_dense_gradient(
    on: torch.device, tokens: int, rows: int, columns: int, density: float, dtype: torch.dtype
) -> None:
    grad_y, x = normal(tokens, rows, dtype=dtype), normal(tokens, columns, dtype=dtype)
    mask = torch.rand(rows, columns) < density
    expected = (grad_y.double().t() @ x.double())[mask]
    for selection in encodings(mask, on):
        values = pk.ops.sampled_matmul(grad_y.to(on), x.to(on), selection)
        assert values.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert_close(values.cpu(), expected, dtype, SUM, terms=tokens)


def test_float32_is_as_exact_as_a_dense_product() -> None:
    """Relative to the largest entry, as the product of the whole matrices; many chunks of tokens."""
    grad_y, x = normal(5000, 20, dtype=torch.float32), normal(5000, 30, dtype=torch.float32)
    exact = grad_y.double().t() @ x.double()
    mask = torch.rand(20, 30) < 0.5
    for selection in encodings(mask, torch.device("cpu")):
        values = pk.ops.sampled_matmul(grad_y, x, selection)
        assert ((values - exact[mask]).abs().max() / exact.abs().max()).item() < 3e-7


def test_a_product_known_by_hand(on: torch.device) -> None:
    """One-hot tokens pick one entry each."""
    grad_y, x = torch.eye(6, device=on)[[0, 2, 5]], 10.0 * torch.eye(4, device=on)[[3, 0, 1]]
    for selection in encodings(torch.ones(6, 4, dtype=torch.bool), on):
        dense = pk.ops.sampled_matmul(grad_y, x, selection).view(6, 4)
        assert dense.nonzero().tolist() == [[0, 3], [2, 0], [5, 1]]
        assert dense.sum() == 30


def test_entries_at_the_edges_of_words_blocks_and_rows(on: torch.device) -> None:
    """Rows that begin inside a word and span several blocks, with empty rows and blocks between them."""
    mask = torch.zeros(9, 700, dtype=torch.bool)
    for entry in (0, 63, 64, 511, 512, 699, 700, 1399, 3500, 3501, 4095, 4096, 9 * 700 - 1):
        mask.view(-1)[entry] = True
    grad_y, x = normal(5, 9).to(on), normal(5, 700).to(on)
    for selection in encodings(mask, on):
        torch.testing.assert_close(
            pk.ops.sampled_matmul(grad_y, x, selection), (grad_y.t() @ x)[mask.to(on)], rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    grad_y, x = normal(1100, 300, dtype=torch.float32), normal(1100, 200, dtype=torch.float32)
    selection = Selection.from_mask(torch.rand(300, 200) < 0.1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = pk.ops.sampled_matmul(grad_y, x, selection)
        torch.set_num_threads(threads)
        assert torch.equal(pk.ops.sampled_matmul(grad_y, x, selection), expected)
    finally:
        torch.set_num_threads(before)


def test_a_value_does_not_depend_on_what_else_is_selected(on: torch.device) -> None:
    """Up to rounding: how many tokens are summed at a time may depend on it."""
    grad_y, x = (normal(300, n, dtype=torch.float32).to(on) for n in (20, 50))
    whole, some = torch.ones(20, 50, dtype=torch.bool), torch.rand(20, 50) < 0.3
    every = pk.ops.sampled_matmul(grad_y, x, Selection.from_mask(whole.to(on))).view(20, 50)
    for selection in encodings(some, on):
        got = pk.ops.sampled_matmul(grad_y, x, selection)
        torch.testing.assert_close(got, every[some.to(on)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_selected_and_no_tokens(on: torch.device, dtype: torch.dtype) -> None:
    grad_y, x = (normal(6, n, dtype=dtype).to(on) for n in (4, 5))
    nothing, something = torch.zeros(4, 5, dtype=torch.bool), torch.eye(4, 5).bool()
    for selection in encodings(nothing, on):
        assert pk.ops.sampled_matmul(grad_y, x, selection).shape == (0,)
    for selection in encodings(something, on):
        values = pk.ops.sampled_matmul(grad_y[:0], x[:0], selection)
        assert values.tolist() == [0] * 4
        assert values.dtype is torch.float32


def test_leading_shape_and_strides_do_not_matter(on: torch.device) -> None:
    grad_y, x = normal(3, 4, 6).to(on), normal(3, 4, 10).to(on)
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.4
    for selection in encodings(mask, on):
        expected = pk.ops.sampled_matmul(grad_y.reshape(12, 6), x.reshape(12, 10), selection)
        strided = grad_y.permute(2, 0, 1).contiguous().permute(1, 2, 0), x.expand(2, 3, 4, 10)[1]
        assert torch.equal(pk.ops.sampled_matmul(*strided, selection), expected)


def test_infinity_and_nan_stay_in_their_rows_and_columns(on: torch.device) -> None:
    grad_y, x = normal(4, 3, dtype=torch.float32).to(on), normal(4, 5, dtype=torch.float32).to(on)
    x[1, 2], grad_y[0, 1] = float("nan"), float("inf")
    for selection in encodings(torch.ones(3, 5, dtype=torch.bool), on):
        finite = pk.ops.sampled_matmul(grad_y, x, selection).view(3, 5).isfinite()
        wrong = torch.zeros(3, 5, dtype=torch.bool, device=on)
        wrong[1], wrong[:, 2] = True, True
        assert torch.equal(finite, ~wrong)


def test_second_derivatives() -> None:
    """Bilinear: through the reference, any number of times."""
    selection = Selection.from_mask(torch.rand(3, 4) < 0.6)
    factors = [normal(5, n).requires_grad_() for n in (3, 4)]
    torch.autograd.gradcheck(lambda *f: pk.ops.sampled_matmul(*f, selection).sin(), factors)
    torch.autograd.gradgradcheck(lambda *f: pk.ops.sampled_matmul(*f, selection).sin(), factors)
    images = [normal(2, 4, 3).requires_grad_(), normal(2, 2, 5).requires_grad_()]
    taps = Selection.from_mask(torch.rand(4, 1, 3) < 0.6)
    torch.autograd.gradgradcheck(lambda *f: pk.ops.sampled_conv(*f, taps, groups=2).sin(), images)


# --- convolutions ---


def dense_gradient(grad_y: Tensor, x: Tensor, weight: Tensor, **window: Any) -> Tensor:
    """The whole weight's gradient by torch, in float64."""
    leaf = weight.double().requires_grad_()
    CONVS[x.dim() - 2](x.double(), leaf, **window).backward(grad_y.double())
    return leaf.grad


def check_conv(on: torch.device, x: Tensor, weight: Tensor, window: dict[str, Any], dtype: torch.dtype) -> None:
    y = CONVS[x.dim() - 2](x, weight, **window)
    grad_y, x = torch.randn_like(y).to(dtype), x.to(dtype)
    mask = torch.rand(weight.shape) < 0.4
    expected = dense_gradient(grad_y, x, weight, **window)[mask]
    for selection in encodings(mask, on):
        values = pk.ops.sampled_conv(grad_y.to(on), x.to(on), selection, **window)
        assert_close(values.cpu(), expected, dtype, SUM, terms=y.numel() // y.shape[1])


FIXED = [
    ((2, 6, 11), (4, 3, 5), {"padding": 2, "groups": 2}),
    ((3, 2, 9, 7), (5, 2, 3, 3), {"padding": 1}),
    ((2, 3, 8, 9), (6, 1, 2, 3), {"stride": (2, 3), "padding": (3, 1), "dilation": (1, 2), "groups": 3}),  # depthwise
    ((2, 5, 4, 3), (3, 5, 1, 1), {}),
    ((40, 3, 1, 1), (4, 3, 1, 1), {}),  # points: a matrix product
    ((4, 3, 1), (4, 3, 1), {"stride": 3, "padding": 1}),  # a single place that sees nothing but padding
    ((1, 2, 4, 5, 6), (4, 2, 3, 1, 2), {"stride": (1, 2, 1), "padding": (2, 0, 1), "dilation": (2, 1, 3)}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("image", "weight", "window"), FIXED, ids=str)
def test_conv_equals_torch(
    on: torch.device, image: tuple[int, ...], weight: tuple[int, ...], window: dict[str, Any], dtype: torch.dtype
) -> None:
    check_conv(on, normal(*image), normal(*weight), window, dtype)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    size, kernel, stride, padding, dilation = each(1, 7), each(1, 3), each(1, 3), each(0, 3), each(1, 3)
    spans = zip(size, padding, dilation, kernel, strict=True)
    assume(all(s + 2 * p >= d * (k - 1) + 1 for s, p, d, k in spans))
    n, rows, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (n, channels * groups, *size), (rows * groups, channels, *kernel), window


@given(case=convolutions(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_conv_equals_torch(case: tuple[Any, Any, Any], seed: int) -> None:
    image, weight, window = case
    torch.manual_seed(seed)
    check_conv(torch.device("cpu"), normal(*image), normal(*weight), window, torch.float64)


def test_conv_strides_do_not_matter(on: torch.device) -> None:
    x, grad_y = normal(2, 4, 6, 5).to(on), normal(2, 3, 6, 5).to(on)
    for selection in encodings(torch.rand(3, 4, 3, 3) < 0.3, on):
        expected = pk.ops.sampled_conv(grad_y, x, selection, padding=1)
        last = (t.contiguous(memory_format=torch.channels_last) for t in (grad_y, x))
        assert torch.equal(pk.ops.sampled_conv(*last, selection, padding=1), expected)


# --- errors ---

MASK = Selection.from_mask(torch.eye(4, 5).bool())
TAPS = Selection.from_mask(torch.ones(4, 3, 2, dtype=torch.bool))
GOOD = {"grad_y": torch.ones(2, 4), "x": torch.ones(2, 5), "selection": MASK}
GOOD_CONV = {"grad_y": torch.ones(2, 4, 8), "x": torch.ones(2, 3, 9), "selection": TAPS}
BAD = [
    ({"grad_y": [1.0]}, TypeError, "sampled_matmul: argument 'grad_y': expected a floating-point tensor, got list"),
    ({"x": torch.ones(2, 5, dtype=torch.int64)}, TypeError, "argument 'x'.*torch.int64"),
    ({"x": torch.ones(2, 5).double()}, TypeError, "argument 'x': expected the dtype of 'grad_y'.*cast one"),
    ({"x": torch.ones(2, 5, device="meta")}, ValueError, "argument 'x': expected the device of 'grad_y'"),
    ({"grad_y": torch.tensor(1.0)}, ValueError, "argument 'grad_y': expected shape \\(..., features\\)"),
    ({"x": torch.ones(3, 5)}, ValueError, "argument 'x': expected leading shape \\(2,\\)"),
    ({"x": torch.ones(2, 6)}, ValueError, "argument 'selection': expected a selection of a weight of shape \\(4, 6\\)"),
    ({"selection": torch.ones(4, 5)}, TypeError, "argument 'selection': expected a Selection"),
    ({"selection": MASK.to("meta")}, ValueError, "argument 'selection'.*selection.to"),
    ({"grad_y": torch.ones(1, 4).expand(2**31, 4), "x": torch.ones(1, 5).expand(2**31, 5)}, ValueError, "2\\^31"),
]
BAD_CONV = [
    ({"selection": MASK}, ValueError, "argument 'selection': expected a selection of a weight \\(O, C / groups"),
    ({"x": torch.ones(2, 3)}, ValueError, "argument 'x': expected 3 dimensions"),
    ({"groups": 3}, ValueError, "argument 'groups': expected a divisor of 4"),
    ({"groups": 2}, ValueError, "argument 'groups'.*3 x groups channels, got 2"),
    ({"stride": 0}, ValueError, "argument 'stride': expected an int of at least 1"),
    ({"padding": (1, 1)}, ValueError, "argument 'padding'"),
    ({"padding": "same"}, ValueError, "argument 'padding'"),
    ({"dilation": 2}, ValueError, "argument 'grad_y': expected shape \\(2, 4, 7\\).*the convolution's output"),
    ({"x": torch.ones(2, 3, 9).half()}, TypeError, "sampled_conv: argument 'x'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.sampled_matmul(**{**GOOD, **change})


@pytest.mark.parametrize(("change", "error", "text"), BAD_CONV, ids=lambda v: None)
def test_bad_arguments_of_a_conv(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.sampled_conv(**{**GOOD_CONV, **change})


def test_index_lists_go_to_cuda_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is chosen for a GPU, and hands lists over unless it was forced."""
    from probkernels._core import backend

    usable = backend.Backend("cuda", "cuda", "cuda", lambda: None)
    monkeypatch.setitem(backend.BACKENDS, "cuda", usable)
    triton = backend.BACKENDS["triton"]
    assert backend.unless_forced("cuda", triton) is usable
    with pk.use_backend("triton"):
        assert backend.unless_forced("cuda", triton) is triton
    monkeypatch.setitem(backend.BACKENDS, "cuda", backend.Backend("cuda", "cuda", "cuda", lambda: "no device"))
    assert backend.unless_forced("cuda", triton) is triton


def test_fake_tensors_keep_the_accumulation_dtype() -> None:
    half = torch.ones(2, 4, device="meta", dtype=torch.bfloat16), torch.ones(2, 5, device="meta", dtype=torch.bfloat16)
    values = MATMUL.call(*half, *MASK.to("meta").tensors, MASK.count)
    assert values.is_meta
    assert (values.shape, values.dtype) == ((4,), torch.float32)


# --- sizes that are symbolic or zero ---


class _Product(torch.nn.Module):
    def __init__(self, op: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.op, self.selection = op, pk.ops.Selection.from_mask(torch.rand(shape, generator=generator) < 0.5)

    def forward(self, grad_y: Tensor, x: Tensor) -> Tensor:
        return self.op(grad_y, x, self.selection)


EXPORTED: dict[str, tuple[Any, ...]] = {
    "tokens": (pk.ops.sampled_matmul, (5, 6), (4, 5), (4, 6)),
    "tokens of sequences": (pk.ops.sampled_matmul, (5, 6), (4, 3, 5), (4, 3, 6)),
    "images": (pk.ops.sampled_conv, (4, 3, 3, 3), (4, 4, 6, 6), (4, 3, 8, 8)),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_export_with_a_dynamic_number(case: str) -> None:
    op, weight, *shapes = EXPORTED[case]
    module, number = _Product(op, weight), torch.export.Dim("number", min=2)
    factors = [torch.randn(shape) for shape in shapes]
    exported = torch.export.export(module, tuple(factors), dynamic_shapes=({0: number}, {0: number})).module()
    for n in (4, 9):
        more = [torch.randn(n, *shape[1:]) for shape in shapes]
        torch.testing.assert_close(exported(*more), module(*more))


def test_an_empty_batch_of_images_gives_zeros() -> None:
    module = _Product(pk.ops.sampled_conv, (4, 3, 3, 3))
    got = module(torch.zeros(0, 4, 6, 6), torch.zeros(0, 3, 8, 8))
    assert torch.equal(got, torch.zeros(module.selection.count))
