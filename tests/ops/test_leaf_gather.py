"""Lookups and sums by category on every backend: against loops in plain Python, missing codes, order of the batch."""

from __future__ import annotations

import itertools
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor

from tests.tolerances import SUM, assert_close

DTYPES = [torch.float64, torch.float32]
# variables, categories, units, batch: 1, primes, 2^k +- 1, more than a block of units or samples, tables of any size
SHAPES = [
    (1, 1, 1, 1),
    (3, 2, 5, 7),
    (2, 17, 4, 33),
    (5, 3, 70, 65),
    (2, 300, 33, 31),
    (1, 3000, 6, 130),
    (1, 4, 3, 700),
]


def problem(variables: int, categories: int, units: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """table (V, C, K), codes (V, B) of which a fifth is missing, values (V, K, B)."""
    codes = torch.randint(categories, (variables, batch))
    codes = torch.where(torch.rand(variables, batch) < 0.2, -1, codes).int()
    table = torch.randn(variables, categories, units, dtype=torch.float64)
    return table, codes, torch.randn(variables, units, batch, dtype=torch.float64)


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    out = table.new_zeros(table.shape[0], table.shape[2], codes.shape[1])
    for v, b in itertools.product(*map(range, codes.shape)):
        if codes[v, b] >= 0:
            out[v, :, b] = table[v, codes[v, b]]
    return out


def added_up(codes: Tensor, values: Tensor, categories: int) -> Tensor:
    """In the order of the batch and the dtype of the values."""
    sums = values.new_zeros(values.shape[0], categories, values.shape[1])
    for v, b in itertools.product(*map(range, codes.shape)):
        if codes[v, b] >= 0:
            sums[v, codes[v, b]] += values[v, :, b]
    return sums


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_loops_to_the_bit(on: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    table, codes, values = problem(*shape)
    table, values = table.to(dtype), values.to(dtype)
    got = pk.ops.leaf_gather(table.to(on), codes.to(on))
    assert torch.equal(got.cpu(), looked_up(table, codes))
    sums = pk.ops.leaf_histogram(codes.to(on), values.to(on), shape[1])
    assert torch.equal(sums.cpu(), added_up(codes, values, shape[1]))


def test_each_is_the_gradient_of_the_other(on: torch.device) -> None:
    table, codes, values = (t.to(on) for t in problem(4, 6, 5, 40))
    table.requires_grad_()
    values.requires_grad_()
    grad = torch.autograd.grad((pk.ops.leaf_gather(table, codes) * values).sum(), table, create_graph=True)[0]
    assert torch.equal(grad, pk.ops.leaf_histogram(codes, values, 6))
    back = torch.autograd.grad((grad * table.detach()).sum(), values)[0]
    assert torch.equal(back, pk.ops.leaf_gather(table.detach(), codes))


def test_derivatives_to_second_order() -> None:
    table, codes, values = problem(2, 3, 2, 5)
    torch.autograd.gradcheck(lambda t: pk.ops.leaf_gather(t, codes).sin(), (table.requires_grad_(),))
    torch.autograd.gradgradcheck(lambda t: pk.ops.leaf_gather(t, codes).sin(), (table,))
    torch.autograd.gradgradcheck(lambda v: pk.ops.leaf_histogram(codes, v, 3).sin(), (values.requires_grad_(),))


def test_strides_do_not_matter(on: torch.device) -> None:
    table, codes, values = (t.to(on) for t in problem(3, 4, 6, 50))
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (table, codes, values)]
    assert torch.equal(pk.ops.leaf_gather(*strided[:2]), pk.ops.leaf_gather(table, codes))
    assert torch.equal(pk.ops.leaf_histogram(*strided[1:], 4), pk.ops.leaf_histogram(codes, values, 4))
    constant = torch.ones(1, 1, 1, device=on).expand(3, 6, 50)
    counts = pk.ops.leaf_histogram(codes, constant, 4)
    assert torch.equal(counts.sum((1, 2)).long(), 6 * (codes >= 0).sum(1))


def test_everything_missing_and_nothing_there(on: torch.device) -> None:
    table, codes, values = (t.to(on) for t in problem(2, 3, 4, 9))
    codes.fill_(-1)
    assert not pk.ops.leaf_gather(table, codes).any()
    assert not pk.ops.leaf_histogram(codes, values, 3).any()
    empty = codes[:, :0]
    assert pk.ops.leaf_gather(table, empty).shape == (2, 4, 0)
    assert torch.equal(pk.ops.leaf_histogram(empty, values[..., :0], 3), torch.zeros_like(table))
    assert pk.ops.leaf_gather(table[..., :0], codes).shape == (2, 0, 9)
    assert pk.ops.leaf_gather(table[:0], codes[:0]).shape == (0, 4, 9)


def test_infinities_and_nan_stay_where_they_are(on: torch.device) -> None:
    table, codes, values = problem(2, 3, 4, 40)
    codes[0, 8], table[0, 1, 2], values[1, 3, 9], codes[1, 9] = 1, -torch.inf, torch.nan, 2
    out = pk.ops.leaf_gather(table.to(on), codes.to(on)).cpu()
    assert torch.equal(out.isinf()[0, 2], codes[0] == 1)
    assert out.isinf().sum() == (codes[0] == 1).sum()
    wrong = pk.ops.leaf_histogram(codes.to(on), values.to(on), 3).isnan().cpu()
    assert wrong.nonzero().tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    table, codes, values = problem(7, 5, 130, 600)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(pk.ops.leaf_gather(table, codes), looked_up(table, codes))
        assert torch.equal(pk.ops.leaf_histogram(codes, values, 5), added_up(codes, values, 5))
    finally:
        torch.set_num_threads(before)


# --- codes that name no category ---


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("code", [4, -2, 2**31 - 1, -(2**31)])
def test_the_cpu_names_the_variable_of_a_bad_code(code: int, backend: str) -> None:
    table, codes, values = problem(3, 4, 2, 50)
    codes[2, 30], codes[1, 41] = code, code
    text = f"argument 'codes': expected categories below 4, or -1 for missing, got {code} for variable 1"
    with pk.use_backend(backend), pytest.raises(ValueError, match=f"leaf_gather: {text}"):
        pk.ops.leaf_gather(table, codes)
    with pk.use_backend(backend), pytest.raises(ValueError, match=f"leaf_histogram: {text}"):
        pk.ops.leaf_histogram(codes, values, 4)


@pytest.mark.parametrize("backend", ["cuda_emu"])
def test_elsewhere_a_bad_code_gives_nan_and_adds_to_nothing(backend: str) -> None:
    from tests import backends

    if reason := backends.skip_reason(backend):
        pytest.skip(reason)
    table, codes, values = problem(3, 4, 2, 50)
    codes[2, 30], codes[1, 41] = 2**31 - 1, -(2**31)
    with pk.use_backend(backend):
        out, sums = pk.ops.leaf_gather(table, codes), pk.ops.leaf_histogram(codes, values, 4)
    assert out.isnan().nonzero().tolist() == [[2, 0, 30], [2, 1, 30]]
    assert not out[1, :, 41].any()
    codes[2, 30], codes[1, 41] = -1, -1
    assert_close(sums, added_up(codes, values, 4), torch.float64, SUM)


# --- errors ---

CODES = torch.zeros(2, 5, dtype=torch.int32)
GOOD = {"table": torch.zeros(2, 3, 4), "codes": CODES}
GOOD_HISTOGRAM = {"codes": CODES, "values": torch.zeros(2, 4, 5), "categories": 3}
Bad = list[tuple[dict[str, Any], type[Exception], str]]
BAD: Bad = [
    ({"table": [1.0]}, TypeError, "leaf_gather: argument 'table': expected a floating-point tensor, got list"),
    ({"table": torch.zeros(2, 3, 4).half()}, TypeError, "argument 'table': expected dtype float32 or float64"),
    ({"table": torch.zeros(3, 4)}, ValueError, "argument 'table': expected shape \\(variables, categories, units\\)"),
    ({"table": torch.zeros(2, 0, 4)}, ValueError, "at least one category"),
    ({"codes": CODES.long()}, TypeError, "argument 'codes': expected an int32 tensor.*-1 marks a missing value"),
    ({"codes": CODES[:1]}, ValueError, "argument 'codes': expected shape \\(2, batch\\).*the batch is the last axis"),
    ({"codes": CODES.to("meta")}, ValueError, "argument 'codes': expected the device of 'table'"),
]
BAD_HISTOGRAM: Bad = [
    ({"values": torch.zeros(2, 4)}, ValueError, "leaf_histogram: argument 'values': expected shape \\(variables, un"),
    ({"values": torch.zeros(2, 4, 5).int()}, TypeError, "argument 'values': expected dtype float32 or float64"),
    ({"codes": CODES[:, :4]}, ValueError, "argument 'codes': expected shape \\(2, 5\\)"),
    ({"categories": 0}, ValueError, "argument 'categories': expected a number >= 1"),
    ({"categories": 2.0}, TypeError, "argument 'categories': expected a whole number"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.leaf_gather(**{**GOOD, **change})


@pytest.mark.parametrize(("change", "error", "text"), BAD_HISTOGRAM, ids=lambda v: None)
def test_bad_arguments_of_a_histogram(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.leaf_histogram(**{**GOOD_HISTOGRAM, **change})
