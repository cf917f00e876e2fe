"""Leapfrog in fixed point on every backend: whole numbers by hand, the way back, overflow, adjoints, errors."""

from __future__ import annotations

import itertools
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops import leapfrog_adjoint_, leapfrog_step_
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(), (3, 7), (2, 300), (17000,)]  # no dimension, parts of a vector, more than a block, more than a task
ONE = 2**36


def states(shape: tuple[int, ...], size: float, damped: bool) -> list[Tensor | None]:
    """y, p, rest: from numbers below 1 to ``size``."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(3, *shape, generator=generator, dtype=torch.float64) * ONE
    parts *= torch.rand(3, *shape, generator=generator, dtype=torch.float64) ** 20 * size
    y, p, rest = parts.long()
    return [y, p, rest.abs() % 2**20 if damped else None]


def evaluation(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def run(on: torch.device, state: list[Tensor | None], e: Tensor, kicks: bool = True, **how: Any) -> list[Tensor | None]:
    """The state after, x, seen and bad."""
    moved = [None if t is None else t.to(on, copy=True) for t in state]
    x, seen = (torch.full_like(e, 9.0, device=on) for _ in range(2))
    bad = torch.zeros(1, dtype=torch.int32, device=on)
    y, p, rest = moved
    assert y is not None and p is not None
    leapfrog_step_(y, p, x, bad, rest=rest, seen=seen, e=e.to(on) if kicks else None, **how)
    return [None if t is None else t.cpu() for t in (y, p, rest, x, seen, bad)]


NUMBERS: dict[str, Any] = {"alpha": 0.83, "last": 0.31, "first": 0.0371, "second": -0.0552}


@pytest.mark.parametrize("keep", [1024, 896])
@pytest.mark.parametrize("size", [1.0, 2.0**23])
def test_whole_numbers_by_hand(on: torch.device, size: float, keep: int) -> None:
    state, e = states((40,), size, keep < 1024), evaluation((40,), torch.float64)
    scale = 1 + keep / 1024
    got = run(on, state, e, keep=keep, scale=scale, **NUMBERS)
    assert state[0] is not None and state[1] is not None
    for i in range(40):
        y, p = int(state[0][i]), int(state[1][i])
        kept = p
        if state[2] is not None:  # p and rest are one number in mixed radix: nothing of it is lost
            rest = int(state[2][i]) * 1024 + p % 1024
            kept = p // 1024 * keep + rest % keep
            assert int(got[2][i]) == rest // keep  # type: ignore[index]
        p = round(float(e[i]) * (scale * ONE)) - kept
        between = y + round(float(p) * NUMBERS["first"])
        after = between + round(float(p) * NUMBERS["second"])
        assert [int(t[i]) for t in got[:2] if t is not None] == [after, p]
        assert float(got[3][i]) == float(after) * (0.83 / ONE)  # type: ignore[index]
        assert float(got[4][i]) == float(between) * (0.31 / ONE)  # type: ignore[index]
    assert got[5] is not None and not got[5].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("keep", "undo"), list(itertools.product([1024, 1, 640], [False, True])))
def test_every_backend_gives_the_same_bits(on: torch.device, dtype: torch.dtype, keep: int, undo: bool) -> None:
    for shape in SHAPES:
        state, e = states(shape, 2.0**20, keep < 1024), evaluation(shape, dtype)
        got = run(on, state, e, keep=keep, undo=undo, **NUMBERS)
        with pk.use_backend("reference"):
            expected = run(torch.device("cpu"), state, e, keep=keep, undo=undo, **NUMBERS)
        assert all(p is q or torch.equal(p, q) for p, q in zip(got, expected, strict=True)), shape  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [1024, 960])
def test_steps_are_undone_to_the_bit(on: torch.device, keep: int) -> None:
    state, e = states((5, 77), 100.0, keep < 1024), evaluation((5, 77), torch.float32)
    there = run(on, state, e, keep=keep, second=0.21, alpha=1.0)
    moved_back = run(on, there[:3], e, kicks=False, keep=keep, second=-0.21, alpha=1.0)
    back = run(on, moved_back[:3], e, keep=keep, undo=True, alpha=1.0)
    assert all(p is q or torch.equal(p, q) for p, q in zip(back[:3], state, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 2.0**24, -(2.0**24)])
def test_what_does_not_fit_is_flagged(on: torch.device, value: float) -> None:
    state, e = states((600,), 1.0, False), evaluation((600,), torch.float32)
    e[599] = value
    bad = run(on, state, e, scale=1.0, **NUMBERS)[5]
    assert bad is not None and int(bad) == 1
    e[599] = 2.0**23.9
    bad = run(on, state, e, scale=1.0, **NUMBERS)[5]
    assert bad is not None and int(bad) == 0


def test_rounds_to_even(on: torch.device) -> None:
    """Halves of odd numbers, small and large."""
    p = torch.tensor([1, 3, -1, -3, 5, 2**40 + 1, -(2**40) - 3, 2**51 + 1])
    y = torch.zeros_like(p)
    got = run(on, [y, p, None], evaluation((8,), torch.float64), kicks=False, first=0.5, alpha=1.0)
    assert got[0] is not None
    assert got[0].tolist() == [0, 2, 0, -2, 2, 2**39, -(2**39) - 2, 2**50]


def test_threads_and_strides_change_nothing() -> None:
    state, e = states((60, 700), 10.0, True), evaluation((60, 700), torch.float32)
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    how = {"keep": 512, **NUMBERS}
    expected = run(cpu, state, e, **how)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        got = run(cpu, state, e, **how)
    finally:
        torch.set_num_threads(threads)
    turned = run(cpu, [None if t is None else t.t().contiguous().t() for t in state], e.t().contiguous().t(), **how)
    for found in (got, turned):
        assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adjoint(on: torch.device, dtype: torch.dtype) -> None:
    """In every backend the same bits; and what autograd finds of a step that does not round."""
    tensors = [torch.randn(5, 101, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(4)]
    how = {"alpha": 0.7, "first": 0.13, "second": -0.21, "keep": 0.75}

    def cotangents(device: torch.device) -> list[Tensor]:
        found = [t.to(device, copy=True) for t in tensors]
        leapfrog_adjoint_(*found, **how)  # type: ignore[arg-type]
        return [t.cpu() for t in found]

    got = cotangents(on)
    with pk.use_backend("reference"):
        assert all(torch.equal(p, q) for p, q in zip(got, cotangents(torch.device("cpu")), strict=True))
    if dtype is torch.float64:
        y, e = (torch.zeros(5, 101, dtype=dtype, requires_grad=True) for _ in range(2))
        p = 1.75 * e  # by the evaluation before
        moved = y + 0.13 * p - 0.21 * p
        into = torch.autograd.grad((moved, -0.75 * p, 0.7 * moved), (y, e), tensors[:3])
        assert torch.allclose(got[0], into[0], rtol=1e-12) and torch.allclose(got[3], into[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"y": torch.zeros(3)}, TypeError, r"'y': expected a tensor of torch\.int64"),
        ({"p": torch.zeros(4, dtype=torch.int64)}, ValueError, r"'p': expected shape \(3,\)"),
        ({"x": torch.zeros(3, dtype=torch.int64)}, TypeError, "'x'"),
        ({"e": torch.zeros(3, dtype=torch.float64)}, TypeError, r"'e': expected a tensor of torch\.float32"),
        ({"bad": torch.zeros(1)}, TypeError, r"'bad': expected a tensor of torch\.int32"),
        ({"keep": 0}, ValueError, "'keep'"),
        ({"keep": 512}, TypeError, "'rest': expected a tensor if and only if 'keep' is below 1024"),
        ({"alpha": "1"}, TypeError, "'alpha'"),
        ({"second": torch.nan}, ValueError, "'second'"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    zeros = torch.zeros(3, dtype=torch.int64)
    how = {"y": zeros, "p": zeros.clone(), "x": torch.zeros(3), "bad": torch.zeros(1, dtype=torch.int32), "alpha": 1.0}
    with pytest.raises(error, match=text):
        leapfrog_step_(**{**how, **change})


def test_adjoint_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match=r"'along': expected a tensor of torch\.float32"):
        leapfrog_adjoint_(torch.zeros(3), torch.zeros(3), torch.zeros(3).double(), torch.zeros(3), alpha=1.0)
