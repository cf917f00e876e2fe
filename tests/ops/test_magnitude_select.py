"""Selection by magnitude on every backend: against torch's own comparisons and kthvalue, exactly."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels import use_backend
from probkernels._core.formats.bitmap import pack
from probkernels.ops.magnitude_select import HISTOGRAM, SELECT
from probkernels.reference.magnitude_select import levels
from torch import Tensor

from tests.ops.test_selection import DTYPES, SIZES

INF, NAN = float("inf"), float("nan")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def weights(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normal numbers with some of every special kind among them."""
    w = torch.randn(n, dtype=torch.float64)
    special = [0.0, -0.0, INF, -INF, NAN, -NAN, 0.25, -0.25, 1e-40, -1e-310, 1e300, 6e-8]
    for i, value in enumerate(special):
        w[i::101] = torch.where(torch.rand(w[i::101].shape) < 0.5, w[i::101], value)
    return w.to(device, dtype)


def compared(w: Tensor, threshold: float, largest: bool) -> Tensor:
    """What torch says; its own comparison refuses numbers that overflow the dtype, a tensor does not."""
    limit = torch.tensor(threshold, dtype=w.dtype, device=w.device)
    return w.abs() > limit if largest else w.abs() < limit


# --- magnitude_select ---


@pytest.mark.parametrize("largest", [False, True], ids=["smallest", "largest"])
@each_dtype
def test_selects_exactly_what_torch_selects(on: torch.device, dtype: torch.dtype, largest: bool) -> None:
    for n in (*SIZES, 9001):
        w = weights(n, dtype, on)
        for threshold in (0.0, 0.06, 0.25, 1.5, 1e6, INF):
            mask = compared(w, threshold, largest)
            for got, expected in zip(SELECT.call(w, threshold, largest), pack(mask), strict=True):
                assert torch.equal(got, expected)  # and so bits past the end are zero
            selection = pk.ops.magnitude_select(w, threshold, largest=largest)
            assert selection.count == mask.sum()
            assert torch.equal(selection.to_mask(), mask)


@each_dtype
def test_strict_zero_infinity_and_nan(on: torch.device, dtype: torch.dtype) -> None:
    w = torch.tensor([0.0, -0.0, 0.25, -0.25, 0.5, INF, -INF, NAN, -NAN]).to(on, dtype)

    def picked(threshold: float, largest: bool = False) -> list[int]:
        return pk.ops.magnitude_select(w, threshold, largest=largest).to_index().tolist()

    assert picked(0.25) == [0, 1]
    assert picked(0.25, largest=True) == [4, 5, 6]
    assert picked(0.0) == []
    assert picked(0.0, largest=True) == [2, 3, 4, 5, 6]
    assert picked(INF) == [0, 1, 2, 3, 4]
    assert picked(INF, largest=True) == []


@settings(max_examples=200, deadline=None)
@given(threshold=st.floats(0, 1e5), dtype=st.sampled_from(DTYPES), largest=st.booleans())
def test_the_threshold_is_rounded_as_torch_rounds_it(threshold: float, dtype: torch.dtype, largest: bool) -> None:
    at = torch.tensor(threshold, dtype=dtype)
    neighbors = [torch.nextafter(at, torch.tensor(end, dtype=dtype)) for end in (0.0, INF)]
    w = torch.stack([at, *neighbors, -at])
    with use_backend("cpu"):
        got = pk.ops.magnitude_select(w, threshold, largest=largest).to_mask()
    assert torch.equal(got, w.abs() > threshold if largest else w.abs() < threshold)


def test_the_ops_take_any_threshold(on: torch.device) -> None:
    """The public function refuses these; the op does what the comparison does."""
    w = weights(999, torch.float32, on)
    for threshold in (-1.0, -0.0, NAN):
        for largest in (False, True):
            assert torch.equal(SELECT.call(w, threshold, largest)[0], pack(compared(w, threshold, largest))[0])


def test_strided_weights(on: torch.device) -> None:
    w = torch.randn(40, 60, 2, device=on)[..., 0].t()
    assert torch.equal(pk.ops.magnitude_select(w, 0.3).to_mask(), w.abs() < 0.3)
    assert torch.equal(pk.ops.magnitude_histogram(w), pk.ops.magnitude_histogram(w.contiguous()))


def toy(rows: int, columns: int, shift: float) -> Tensor:
    """The seed-free weights that the method's oracles are given for."""
    r, c = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    return (torch.sin(1 + 1.7 * r + 0.9 * c + shift) * torch.cos(0.3 * r * c + shift)).float()


def test_the_toy_network(on: torch.device) -> None:
    tensors = [toy(6, 5, 0.0), 0.1 * torch.arange(6), toy(3, 6, 0.5), -0.1 * torch.arange(3)]
    found = [pk.ops.magnitude_select(t.to(on), 0.2) for t in tensors]
    assert [selection.count for selection in found] == [9, 2, 6, 2]
    assert found[0].to_index().tolist() == [9, 12, 13, 15, 22, 24, 25, 26, 28]


@pytest.mark.parametrize(("threshold", "density"), [(2e-4, 0.0058), (8e-4, 0.0233), (2e-3, 0.0582)])
def test_density_of_normal_weights(threshold: float, density: float) -> None:
    """The paper's thresholds on a layer of standard deviation .0274: erf(threshold / sd / sqrt 2)."""
    n = 1 << 20
    assert math.erf(threshold / 0.0274 / 2**0.5) == pytest.approx(density, abs=5e-5)
    count = pk.ops.magnitude_select(0.0274 * torch.randn(n), threshold).count
    assert abs(count / n - density) < 4 * (density / n) ** 0.5


# --- magnitude_histogram and magnitude_kth ---


@each_dtype
def test_histograms_equal_the_reference(on: torch.device, dtype: torch.dtype) -> None:
    for n in (*SIZES, 20011):
        w = weights(n, dtype, on)
        prefix = 0
        for level in range(levels(dtype)):
            got = pk.ops.magnitude_histogram(w, level, prefix)
            assert torch.equal(got, HISTOGRAM.reference(w, level, prefix))
            if level == 0:
                assert got.sum() == n - w.isnan().sum()
            prefix = prefix << 16 | int(got.argmax())  # where there is something to count


@each_dtype
def test_kth_equals_kthvalue(on: torch.device, dtype: torch.dtype) -> None:
    parts = [torch.randn(n).to(on, dtype) for n in (1, 700, 0, 64)]
    ordered = torch.cat(parts).abs().sort().values
    for k in (1, 2, 383, 764, 765):
        assert pk.ops.magnitude_kth(parts, k) == ordered[k - 1].item()
        assert pk.ops.magnitude_kth(parts, k, largest=True) == ordered[-k].item()


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 0.1, -0.1, 0.1000001, 3.0, 1e-42, INF, NAN]), max_size=40),
    extra=st.lists(st.floats(), min_size=1, max_size=20),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_kth_of_ties_and_specials(values: list[float], extra: list[float], dtype: torch.dtype, data: Any) -> None:
    """float64 beside another dtype, most entries equal, and NaN, which does not count."""
    parts = [torch.tensor(values, dtype=dtype), torch.tensor(extra, dtype=torch.float64)]
    everything = torch.cat([p.double() for p in parts]).abs()
    ordered = everything[~everything.isnan()].sort().values
    if ordered.numel() == 0:
        with pytest.raises(ValueError, match="NaN does not count"):
            pk.ops.magnitude_kth(parts, 1)
        return
    k = data.draw(st.integers(1, ordered.numel()))
    assert pk.ops.magnitude_kth(parts, k) == ordered[k - 1].item()
    assert pk.ops.magnitude_kth(parts, k, largest=True) == ordered[-k].item()


def test_kth_selects_a_share(on: torch.device) -> None:
    parts = [torch.randn(300, 7, device=on), torch.randn(900, device=on)]
    below, above = pk.ops.magnitude_kth(parts, 151), pk.ops.magnitude_kth(parts, 151, largest=True)
    assert sum(pk.ops.magnitude_select(p, below).count for p in parts) == 150
    assert sum(pk.ops.magnitude_select(p, above, largest=True).count for p in parts) == 150


def test_processes_add_their_histograms() -> None:
    mine, theirs = torch.randn(1000), torch.randn(400)
    expected = pk.ops.magnitude_kth([mine, theirs], 321)
    theirs_by_level = []
    pk.ops.magnitude_kth([mine, theirs], 321, reduce=lambda h: theirs_by_level.append(h) or h)
    others = iter(theirs_by_level)

    def reduce(histogram: Tensor) -> Tensor:
        """As an all-reduce would, which here knows what the sum is."""
        total = next(others)
        assert (histogram <= total).all()
        return total

    assert pk.ops.magnitude_kth([mine], 321, reduce=reduce) == expected
    assert next(others, None) is None


def test_threads_do_not_change_a_bit() -> None:
    w = weights(1_000_003, torch.float32, torch.device("cpu"))
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append((*SELECT.call(w, 0.05, False), HISTOGRAM.call(w, 0, 0), HISTOGRAM.call(w, 1, 0x3F00)))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(p, q) for p, q in zip(runs[0], other, strict=True))
    assert torch.equal(runs[0][2], HISTOGRAM.reference(w, 0, 0))


@pytest.mark.gpu
def test_more_than_two_to_the_31_entries() -> None:
    w = torch.ones(2**31 + 700, dtype=torch.bfloat16, device="cuda")
    w[::9] = 0.5
    selection = pk.ops.magnitude_select(w, 1.0)
    assert selection.count == w[::9].numel()
    assert torch.equal(selection.to_mask(), w == 0.5)
    with pytest.raises(ValueError, match="at most 2147483647 selected entries, got more"):
        pk.ops.magnitude_select(w, 2.0)


# --- errors ---

ONE = torch.ones(3)
BAD = [
    (lambda: pk.ops.magnitude_select([1.0], 1.0), TypeError, "magnitude_select: argument 'w'.*got list"),
    (lambda: pk.ops.magnitude_select(ONE.int(), 1.0), TypeError, "'w'.*torch.int32"),
    (lambda: pk.ops.magnitude_select(ONE, "1"), TypeError, "'threshold': expected a number, got str"),
    (lambda: pk.ops.magnitude_select(ONE, True), TypeError, "'threshold'"),
    (lambda: pk.ops.magnitude_select(ONE, -1.0), ValueError, "'threshold': expected a number of at least 0, got -1.0"),
    (lambda: pk.ops.magnitude_select(ONE, NAN), ValueError, "'threshold'.*got nan"),
    (lambda: pk.ops.magnitude_histogram(ONE.bool()), TypeError, "magnitude_histogram: argument 'w'"),
    (lambda: pk.ops.magnitude_histogram(ONE, 2), ValueError, "'level': expected one of 0, 1, got 2"),
    (lambda: pk.ops.magnitude_histogram(ONE.double(), 4), ValueError, "'level': expected one of 0, 1, 2, 3, got 4"),
    (lambda: pk.ops.magnitude_histogram(ONE, 1, 1 << 16), ValueError, "'prefix': expected 1 digits? of 16 bits"),
    (lambda: pk.ops.magnitude_histogram(ONE, 0, 1), ValueError, "'prefix'.*got 1"),
    (lambda: pk.ops.magnitude_kth([ONE, ONE.int()], 1), TypeError, "magnitude_kth: argument 'tensors'.*torch.int32"),
    (lambda: pk.ops.magnitude_kth([ONE], 1.0), TypeError, "'k': expected a whole number, got float 1.0"),
    (lambda: pk.ops.magnitude_kth([ONE], 0), ValueError, r"'k': expected a number in \[1, 3\], got 0"),
    (lambda: pk.ops.magnitude_kth([ONE], 4), ValueError, r"\[1, 3\], got 4. Hint: NaN does not count"),
    (lambda: pk.ops.magnitude_kth([], 1), ValueError, r"\[1, 0\]"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
