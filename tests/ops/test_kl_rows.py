"""KL divergences of rows on every backend: against log_softmax in float64, masked values, gradients, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import probkernels as pk
import pytest
import torch
from probkernels.ops import kl_rows
from probkernels.ops.kl_rows import FWD
from torch import Tensor

from tests import backends
from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 2), (3, 17), (2, 2100), (0, 4)]  # rows, values: tails of registers, several blocks, nothing
NEVER = -math.inf


@pytest.fixture(params=[name for name in backends.names() if not name.startswith("cuda")])
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """That of conftest.py for the backends that the op has: on a GPU it is Triton's alone."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


def exact(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1), p.logsumexp(1), q.logsumexp(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_op_equals_log_softmax(on: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits = [(3 * torch.randn(shape)).to(on, dtype).requires_grad_() for _ in range(2)]
    truth = [t.detach().double().requires_grad_() for t in logits]
    outputs, expected = FWD.call(*logits), exact(*truth)
    wide = outputs[0].dtype
    assert wide == (dtype if dtype.itemsize > 2 else torch.float32)
    assert outputs[1].dtype == outputs[2].dtype == torch.float64
    for got, value in zip(outputs, expected, strict=True):
        assert_close(got.detach(), value.detach(), wide, ELEMENTWISE, 256)
    grads = [torch.randn(shape[0], device=on).to(t.dtype) for t in outputs]
    found = torch.autograd.grad(outputs, logits, grads)
    values = torch.autograd.grad(expected, truth, [g.double() for g in grads])
    for got, value in zip(found, values, strict=True):
        assert got.dtype == dtype
        assert_close(got, value, dtype, ELEMENTWISE, 256)


def test_rising_logits_across_blocks(on: torch.device) -> None:
    """Each block has new maxima: sums so far follow them. Large offsets of a tensor cost nothing."""
    p = torch.linspace(-40, 40, 4096, device=on, dtype=torch.float64).flip(0).expand(2, -1).clone()
    q = torch.linspace(-30, 50, 4096, device=on, dtype=torch.float64).expand(2, -1).clone()
    p[1], q[1] = q[0].clone(), p[0].clone()
    torch.testing.assert_close(kl_rows(p, q), exact(p, q)[0], rtol=1e-13, atol=0)
    single = p.float()
    torch.testing.assert_close(kl_rows(single + 8192, single - 4096), torch.zeros(2, device=on), rtol=0, atol=0.01)
    torch.testing.assert_close(kl_rows(single, single), torch.zeros(2, device=on), rtol=0, atol=2e-6)


@pytest.mark.parametrize("width", [3, 2500])
def test_masked_values_are_exact(on: torch.device, width: int) -> None:
    """0 log 0 = 0 with finite gradients, p log(p / 0) is infinite, also far below; such rows leave others alone."""
    p, q = (torch.full((4, width), NEVER, device=on) for _ in range(2))
    p[0, -2:], q[0, -2:] = torch.tensor([0.0, 1.0], device=on), torch.tensor([1.0, 0.0], device=on)  # both masked
    p[1, -1], q[1, :2] = 0.0, 0.0  # nothing in common
    p[2, 0], q[2] = 0.5, 0.0  # certain against even
    p[3] = -200.0  # all but the last so improbable that the exponential is 0
    p[3, -1], q[3, -1] = 0.0, 0.0
    p.requires_grad_()
    q.requires_grad_()
    found = kl_rows(p, q)
    half = math.tanh(0.5)
    assert found.tolist() == pytest.approx([half, math.inf, math.log(width), math.inf], abs=1e-6)
    grads = torch.autograd.grad(found, (p, q), torch.ones_like(found))
    assert torch.equal(grads[0][0, :-2], torch.zeros_like(grads[0][0, :-2])) and grads[0][[0, 2]].isfinite().all()
    one = torch.tensor([0.0, 1.0], device=on).softmax(0)
    torch.testing.assert_close(grads[1][0, -2:], one.flip(0) - one)
    expected = torch.full((width,), 1 / width, device=on)
    expected[0] -= 1
    torch.testing.assert_close(grads[1][2], expected)
    assert grads[1].isfinite().all()  # q - p, in infinite rows too


def test_what_is_no_number(on: torch.device) -> None:
    """NaN and rows without a finite logit give NaN, in their row alone."""
    p, q = torch.zeros(4, 20, device=on), torch.zeros(4, 20, device=on)
    p[0, 3], q[1, 19], p[2] = math.nan, math.nan, NEVER
    assert kl_rows(p, q).isnan().tolist() == [True, True, True, False]
    assert kl_rows(q[2:], p[2:]).isnan().tolist() == [True, False]


def test_first_and_second_derivatives(on: torch.device) -> None:
    logits = [torch.randn(2, 3, 5, dtype=torch.float64).to(on).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(kl_rows, logits)
    assert torch.autograd.gradgradcheck(kl_rows, [t[0] for t in logits])


def test_shapes_strides_and_dtypes(on: torch.device) -> None:
    p, q = torch.randn(7, 2, 3, device=on).movedim(0, -1), torch.randn(2, 3, 7, device=on)
    expected = exact(*(t.double().reshape(6, 7) for t in (p, q)))[0].view(2, 3)
    torch.testing.assert_close(kl_rows(p, q).double(), expected, rtol=1e-5, atol=1e-6)
    assert kl_rows(p.half(), q.double()).dtype is torch.float64
    assert kl_rows(p.half(), q.bfloat16()).dtype is torch.float32
    assert kl_rows(p[0, 0], q[0, 0]).shape == () and kl_rows(p[:0], q[:0]).shape == (0, 3)


def test_threads_change_no_bit() -> None:
    logits = [torch.randn(300, 500) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            rows = [t.clone().requires_grad_() for t in logits]
            value = kl_rows(*rows)
            results.append((value.detach(), *torch.autograd.grad(value.sum(), rows)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


ROWS = torch.zeros(2, 4)
WRONG = [
    ((ROWS, ROWS[:1]), ValueError, r"'logits_q': expected shape \(2, 4\)"),
    ((ROWS[:, :0], ROWS[:, :0]), ValueError, r"'logits_p': expected shape \(..., V\)"),
    ((ROWS, ROWS.long()), TypeError, r"'logits_q'.*int64"),
    (([1.0], ROWS), TypeError, r"'logits_p'.*floating-point"),
]


@pytest.mark.parametrize(
    ("args", "error", "text"), WRONG, ids=[text[:12] + str(k) for k, (*_, text) in enumerate(WRONG)]
)
def test_wrong_arguments(args: tuple[object, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kl_rows(*args)  # type: ignore[arg-type]
