"""A sampler's step on every backend: bits, noise, rows of their own, gradients to second order, wrong input."""

from __future__ import annotations

from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import linear_step, philox_normal
from probkernels.ops.linear_step import DOTS, padded
from torch import Tensor

from tests.tolerances import ELEMENTWISE, SUM, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# rows of a single element, parts of a vector and of a counter, more than a block, more than a task
SHAPES = [(1,), (3, 5), (40, 3), (2, 3, 7, 11), (3, 6000), (1, 20_011)]
COUNTS = [(1, 1), (2, 3), (3, 1), (8, 8)]  # outputs, inputs


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """float64 values that ``dtype`` can hold."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).double()


def problem(shape: tuple[int, ...], counts: tuple[int, int], by_row: bool, dtype: torch.dtype) -> dict[str, Any]:
    outputs, inputs = counts
    lead, rows = (shape[0],) if by_row else (), shape[0]
    return {
        "inputs": [normal(*shape, seed=i, dtype=dtype).to(dtype) for i in range(inputs)],
        "coefficients": normal(*lead, outputs, inputs, seed=20),
        "noise": normal(*lead, outputs, seed=21),
        "seeds": torch.arange(rows) * 2**34 - 2 if by_row else 2**40 + 3,
        "step": 2**33 + 5,
    }


def run(on: torch.device, inputs: list[Tensor], **how: Any) -> Tensor:
    moved = {name: value.to(on) if isinstance(value, Tensor) else value for name, value in how.items()}
    return torch.stack(linear_step([x.to(on) for x in inputs], **moved)).cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("by_row", [False, True], ids=["shared", "by_row"])
def test_equals_the_reference_to_the_bit(on: torch.device, by_row: bool, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for counts in COUNTS:
            given = problem(shape, counts, by_row, dtype)
            got = run(on, **given)
            with pk.use_backend("reference"):
                expected = torch.stack(linear_step(**given))
            assert got.dtype is dtype
            assert torch.equal(got, expected), (shape, counts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("by_row", [False, True], ids=["shared", "by_row"])
def test_equals_the_equation(on: torch.device, by_row: bool, dtype: torch.dtype) -> None:
    """In float64, with the noise of philox_normal in the dtype that is computed in."""
    given = problem((4, 301), (2, 3), by_row, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    z = philox_normal(given["seeds"], (4, 301), step=given["step"], dtype=wide).double()
    c, d = given["coefficients"].expand(4, 2, 3), given["noise"].expand(4, 2)
    expected = torch.einsum("roi,irn->orn", c, torch.stack(given["inputs"]).double()) + d.T[..., None] * z
    assert_close(run(on, **given), expected, dtype, ELEMENTWISE)


def test_halves_are_rounded_once(on: torch.device) -> None:
    """1 + 2^-12 - 1: gone if the first sum was rounded to half precision."""
    one = torch.ones(1, 3, dtype=torch.float16)
    got = run(on, [one, one, one], coefficients=torch.tensor([[1.0, 2.0**-12, -1.0]]))
    assert got.flatten().tolist() == [2.0**-12] * 3


def test_a_row_depends_on_nothing_but_itself(on: torch.device) -> None:
    x, seeds = normal(9, 1030).float(), torch.arange(9) % 4
    own = run(on, [x], coefficients=[[0.5]], noise=[2.0], seeds=seeds)
    for first, last in ((0, 1), (1, 5), (5, 9)):
        part = run(on, [x[first:last]], coefficients=[[0.5]], noise=[2.0], seeds=seeds[first:last])
        assert torch.equal(part, own[:, first:last])
    whole = run(on, [x], coefficients=[[0.5]], noise=[2.0], seeds=4)
    part = run(on, [x[3:]], coefficients=[[0.5]], noise=[2.0], seeds=4, first_row=3)
    assert torch.equal(part, whole[:, 3:])


def test_mixed_rows_and_shared(on: torch.device) -> None:
    x, c, d = normal(3, 8), normal(3, 2, 1), normal(2)
    got = run(on, [x], coefficients=c, noise=d, seeds=1)
    assert torch.equal(got, run(on, [x], coefficients=c, noise=d.expand(3, 2), seeds=1))
    got = run(on, [x], coefficients=c[0], noise=d.expand(3, 2), seeds=1)
    assert torch.equal(got, run(on, [x], coefficients=c[0], noise=d, seeds=1))


def test_strides_and_alignment_do_not_matter(on: torch.device) -> None:
    given = problem((6, 20), (2, 2), False, torch.float32)
    expected = run(on, **given)
    turned = [x.T.contiguous().T for x in given["inputs"]]
    shifted = [torch.cat([torch.zeros(1), x.flatten()])[1:].view(6, 20) for x in given["inputs"]]
    for others in (turned, shifted):
        assert torch.equal(run(on, **{**given, "inputs": others}), expected)


def test_nan_stays_in_its_element(on: torch.device) -> None:
    x, y = torch.ones(2, 40), torch.ones(2, 40)
    y[1, 17] = torch.nan
    got = run(on, [x, y], coefficients=[[1.0, 2.0], [1.0, 1.0]], noise=[1.0, 0.0], seeds=0)
    assert got.isnan().nonzero().tolist() == [[0, 1, 17], [1, 1, 17]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_nothing_to_do(on: torch.device, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=on, requires_grad=True)
    c = torch.ones(2, 1, dtype=torch.float64, device=on, requires_grad=True)
    outputs = linear_step([x], c, noise=[1.0, 2.0], seeds=1)
    sum(y.sum() for y in outputs).backward()
    assert [y.shape for y in outputs] == [shape] * 2
    assert c.grad.tolist() == [[0.0], [0.0]]


def test_outputs_beyond_the_caches_are_the_same() -> None:
    """They are written around them."""
    x = torch.linspace(-1, 1, 3 * 2**20 + 5).view(1, -1)
    first, second = linear_step([x], [[0.5], [3.0]])
    assert torch.equal(first, 0.5 * x)
    assert torch.equal(second, 3 * x)


def test_threads_do_not_change_a_bit() -> None:
    given, before = problem((3, 30_001), (2, 3), False, torch.float32), torch.get_num_threads()
    y = torch.stack(given["inputs"][:2])
    arguments = (y, *padded(given["inputs"]), True, False, None, 5, 0, 6)
    expected, dots = linear_step(**given), DOTS.call(*arguments)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(p, q) for p, q in zip(linear_step(**given), expected, strict=True))
        assert torch.equal(DOTS.call(*arguments), dots)
    finally:
        torch.set_num_threads(before)


# --- gradients ---


@pytest.mark.parametrize("by_row", [False, True], ids=["shared", "by_row"])
def test_gradients_to_second_order(on: torch.device, by_row: bool) -> None:
    given = problem((2, 3), (2, 3), by_row, torch.float64)
    leaves = [t.to(on).requires_grad_() for t in (*given["inputs"], given["coefficients"], given["noise"])]
    seeds = given["seeds"].to(on) if by_row else given["seeds"]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        *inputs, c, d = tensors
        return linear_step(inputs, c, noise=d, seeds=seeds, step=3)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("by_row", [False, True], ids=["shared", "by_row"])
def test_dots(on: torch.device, by_row: bool, dtype: torch.dtype) -> None:
    """Of more elements than a partial sum has, in float64 whatever the dtype."""
    for shape in ((3, 7), (300, 3), (2, 20_005)):
        given = problem(shape, (2, 3), by_row, dtype)
        y = normal(2, *shape, seed=30, dtype=dtype).to(dtype)
        seeds, seed = (given["seeds"].to(on), 0) if by_row else (None, given["seeds"])
        x = [t.to(on) for t in given["inputs"]]
        got = DOTS.call(y.to(on), *padded(x), True, by_row, seeds, seed, 0, given["step"]).cpu()
        z = philox_normal(given["seeds"], shape, step=given["step"], dtype=torch.promote_types(dtype, torch.float32))
        every = torch.stack([t.double() for t in (*given["inputs"], z)])
        expected = torch.einsum("orn,irn->roi", y.double(), every)
        assert got.dtype is torch.float64
        expected = expected if by_row else expected.sum(0)
        assert_close(got, expected, torch.float64, SUM, terms=shape[0] * shape[1])


def test_only_what_is_asked_for_is_computed(on: torch.device) -> None:
    x, c = normal(3, 4).to(on), normal(2, 1).to(on).requires_grad_()
    (into,) = torch.autograd.grad(sum(y.sum() for y in linear_step([x], c)), c)
    assert_close(into.cpu(), x.cpu().sum().expand(2, 1), torch.float64, SUM)
    x.requires_grad_()
    (into,) = torch.autograd.grad(linear_step([x], c.detach())[1].sum(), x)
    assert torch.equal(into, c.detach()[1].expand(3, 4))


# --- errors ---

X = torch.ones(2, 3)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"inputs": X}, TypeError, "linear_step: argument 'inputs': expected a sequence of tensors"),
    ({"inputs": []}, ValueError, "argument 'inputs': expected 1 to 8 tensors, got 0"),
    ({"inputs": [X] * 9}, ValueError, "argument 'inputs': expected 1 to 8 tensors, got 9"),
    ({"inputs": [X, 1.0]}, TypeError, "argument 'inputs\\[1\\]': expected a floating-point tensor"),
    ({"inputs": [X, X.int()]}, TypeError, "argument 'inputs\\[1\\]': expected dtype"),
    ({"inputs": [X, X.half()]}, TypeError, "argument 'inputs\\[1\\]': expected the dtype of 'inputs\\[0\\]'"),
    ({"inputs": [X, X[:1]]}, ValueError, "argument 'inputs\\[1\\]': expected shape \\(2, 3\\)"),
    ({"inputs": [X, X.to("meta")]}, ValueError, "argument 'inputs\\[1\\]': expected the device of"),
    ({"inputs": [X[0, 0]] * 2}, ValueError, "argument 'inputs\\[0\\]': expected shape \\(rows, ...\\)"),
    ({"coefficients": [[1.0]]}, ValueError, "argument 'coefficients': expected shape \\(outputs, 2\\) or"),
    ({"coefficients": torch.ones(9, 2)}, ValueError, "with 1 to 8 outputs, got shape \\(9, 2\\)"),
    ({"coefficients": torch.ones(3, 1, 2)}, ValueError, "argument 'coefficients': expected shape"),
    ({"coefficients": "ab"}, TypeError, "argument 'coefficients': expected a tensor or nested numbers"),
    ({"coefficients": [[1.0, torch.ones(())]]}, TypeError, "got nested tensors. Hint: torch.stack"),
    ({"noise": None, "seeds": None, "step": "a"}, TypeError, "argument 'step': expected a whole number, got str"),
    ({"noise": None, "seeds": None, "first_row": -1}, ValueError, "argument 'first_row': expected 0 to"),
    ({"coefficients": torch.ones(1, 2).half()}, TypeError, "argument 'coefficients': expected dtype"),
    ({"noise": [1.0, 2.0]}, ValueError, "argument 'noise': expected shape \\(1,\\) or \\(2, 1\\)"),
    ({"seeds": None}, TypeError, "argument 'seeds': expected an int or an int64 tensor beside 'noise'"),
    ({"noise": None}, ValueError, "argument 'seeds': expected None without 'noise'"),
    ({"seeds": torch.arange(3)}, ValueError, "argument 'seeds': expected shape \\(2,\\)"),
    ({"seeds": torch.zeros(2, dtype=torch.int64, device="meta")}, ValueError, "argument 'seeds': expected the device"),
    ({"step": -1}, ValueError, "argument 'step': expected 0 to"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"inputs": [X, X], "coefficients": [[1.0, 2.0]], "noise": [1.0], "seeds": 3}
    with pytest.raises(error, match=text):
        linear_step(**{**good, **change})
