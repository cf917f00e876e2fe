"""Log-densities of histograms on every backend: against log_softmax in float64, printed values, gradients, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import probkernels as pk
import pytest
import torch
from probkernels.ops import bar_log_prob
from probkernels.ops.bar_log_prob import FWD
from torch import Tensor

from tests import backends
from tests.tolerances import ELEMENTWISE, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 2), (3, 17), (5, 64), (2, 2100), (0, 4)]  # rows, bars: tails of registers, several blocks, nothing
BORDERS = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0], dtype=torch.float64)
LOGITS = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
Y = torch.tensor([-4.0, -1.5, 0.0, 0.75, 2.0, 6.0], dtype=torch.float64)
# computed with scipy
FULL = [4.9693891493, 2.9790422981, 1.3217558400, 0.5108256238, 2.9790422981, 4.3438515675]
BOUNDED = [2.3025850930, 1.3217558400, 0.5108256238, 2.3025850930]


@pytest.fixture(params=[name for name in backends.names() if not name.startswith("cuda")])
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """That of conftest.py for the backends that the op has: on a GPU it is Triton's alone."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


def exact(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return logits.log_softmax(1).gather(1, index[:, None])[:, 0], logits.logsumexp(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_op_equals_log_softmax(on: torch.device, shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, bars = shape
    logits = (3 * torch.randn(shape)).to(on, dtype).requires_grad_()
    truth = logits.detach().double().requires_grad_()
    index = torch.randint(bars, (rows,), device=on)
    outputs, expected = FWD.call(logits, index), exact(truth, index)
    assert outputs[0].dtype == (dtype if dtype.itemsize > 2 else torch.float32) and outputs[1].dtype == torch.float64
    wide = outputs[0].dtype
    for got, value in zip(outputs, expected, strict=True):
        assert_close(got.detach(), value.detach(), wide, ELEMENTWISE, 256)
    grads = [torch.randn(rows, device=on) for _ in range(2)]
    (got,) = torch.autograd.grad(outputs, logits, [grads[0].to(wide), grads[1].double()])
    (value,) = torch.autograd.grad(expected, truth, [g.double() for g in grads])
    assert got.dtype == dtype
    assert_close(got, value, dtype, ELEMENTWISE, 256)


def test_printed_values(on: torch.device) -> None:
    rows, y, borders = LOGITS.expand(6, 4).to(on), Y.to(on), BORDERS.to(on)
    kind = {"rtol": 0, "atol": 1e-10}
    full, bounded = -bar_log_prob(rows, y, borders), -bar_log_prob(rows[:4], y[1:5], borders, "bounded")
    torch.testing.assert_close(full.cpu(), torch.tensor(FULL, dtype=torch.float64), **kind)
    torch.testing.assert_close(bounded.cpu(), torch.tensor(BOUNDED, dtype=torch.float64), **kind)


def test_gradient_of_logits_is_softmax_minus_one_hot_in_tails_too(on: torch.device) -> None:
    logits = LOGITS.expand(6, 4).to(on).clone().requires_grad_()
    (grad,) = torch.autograd.grad(-bar_log_prob(logits, Y.to(on), BORDERS.to(on)).sum(), logits)
    one_hot = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2, 3, 3]), 4)
    torch.testing.assert_close(grad.cpu(), LOGITS.softmax(0) - one_hot, rtol=0, atol=1e-15)


def test_large_logits_keep_their_digits(on: torch.device) -> None:
    """Of a common offset, forward and backward."""
    logits, y = (LOGITS + 0.0).float().expand(6, 4).to(on), Y.float().to(on)
    near, far = (t.clone().requires_grad_() for t in (logits, logits + 4096))
    results = [bar_log_prob(t, y, BORDERS.float().to(on)) for t in (near, far)]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-3)  # 4096 + x keeps x to 2e-4
    exact_far = (far.detach().double().softmax(1) - near.detach().double().softmax(1)).abs().max()
    grads = [torch.autograd.grad(r.sum(), t)[0] for r, t in zip(results, (near, far), strict=True)]
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=2 * float(exact_far) + 1e-6)


def test_first_and_second_derivatives(on: torch.device) -> None:
    """In logits, targets (two of them in tails) and borders."""
    logits, y = torch.randn(5, 4, dtype=torch.float64), Y[[0, 1, 2, 4, 5]]
    inputs = [t.to(on).requires_grad_() for t in (logits, y, BORDERS.clone())]
    assert torch.autograd.gradcheck(bar_log_prob, inputs)
    assert torch.autograd.gradgradcheck(bar_log_prob, inputs)
    (slope,) = torch.autograd.grad(bar_log_prob(*inputs)[0], inputs[1])
    distance, scale = -1 - y[0], 1 / 0.6744897501960817
    torch.testing.assert_close(slope[0].cpu(), distance / scale**2)


def test_special_values(on: torch.device) -> None:
    """Bars of probability zero, rows without a number, which stay alone, and far targets."""
    logits = LOGITS.expand(4, 4).float().to(on).clone()
    logits[0, 0], logits[1], logits[2, 3] = -math.inf, -math.inf, math.nan
    y = torch.tensor([0.0, 0.0, 0.0, 1e30], device=on)
    value = bar_log_prob(logits, y, BORDERS.float().to(on))
    assert value[0].item() == pytest.approx(math.log(0.4 / 0.9 / 1.5), abs=1e-6)
    assert value[1:3].isnan().all() and value[3] == -math.inf


def test_strides_shapes_and_border_cases(on: torch.device) -> None:
    logits = torch.randn(4, 3, 2, dtype=torch.float64, device=on)
    y = BORDERS[[0, 1, 3, 4, 2, 1]].view(2, 3).to(on)  # a border belongs to the bar below it, the first to the first
    turned = logits.movedim(0, -1).movedim(0, 1)  # (2, 3, 4)
    found = bar_log_prob(turned, y, BORDERS.to(on), "bounded")
    bars = torch.tensor([[0, 0, 2], [3, 1, 0]], device=on)
    expected = turned.log_softmax(-1).gather(-1, bars[..., None])[..., 0] - BORDERS.diff().to(on)[bars].log()
    torch.testing.assert_close(found, expected)
    one = bar_log_prob(
        logits[:1, :1].movedim(0, -1), y[:1, :2].clamp(0, 1), torch.tensor([0.0, 2.0], device=on), "bounded"
    )
    torch.testing.assert_close(one, torch.full_like(one, -math.log(2)))
    two = bar_log_prob(
        torch.zeros(2, 2, device=on), torch.tensor([-1.0, 1.0], device=on), torch.tensor([-1.0, 0, 1], device=on)
    )
    assert two[0] == two[1]


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    logits, index = torch.randn(300, 500), torch.randint(500, (300,))
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, threads):
            torch.set_num_threads(count)
            x = logits.clone().requires_grad_()
            value, _ = FWD.call(x, index)
            results.append((value.detach(), torch.autograd.grad(value.sum(), x)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


ROWS = LOGITS.expand(2, 4)
WRONG = [
    ((ROWS, Y[:2], BORDERS[[0, 1, 3, 2, 4]]), r"'borders': expected rising numbers, got 0.5 at \[3\]"),
    ((ROWS, Y[:2], BORDERS[[0, 1, 1, 2, 4]]), r"'borders': expected rising numbers, got -1.0 at \[2\]"),
    ((ROWS, Y[:2], BORDERS[:4]), r"'borders': expected shape \(5,\)"),
    ((ROWS, Y[:2], BORDERS * math.inf), r"'borders': expected finite numbers"),
    ((ROWS, Y[[1, 0]], BORDERS, "bounded"), r"'y': expected .* support \[-2, 3\], got -4.0 at \[1\]"),
    ((ROWS, Y[:2] * torch.tensor([1, math.nan]), BORDERS), r"'y': expected numbers, got nan at \[1\]"),
    ((ROWS, Y[:3], BORDERS), r"'y': expected shape \(2,\)"),
    ((ROWS[:, :1], Y[:2], BORDERS[:2]), "at least two bars"),
    ((ROWS, Y[:2], BORDERS, "halfnormal"), "did you mean 'half_normal'"),
]


@pytest.mark.parametrize(("args", "text"), WRONG, ids=[text[:30] for _, text in WRONG])
def test_wrong_values(args: tuple[object, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bar_log_prob(*args)  # type: ignore[arg-type]


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"'logits'.*floating-point"):
        bar_log_prob([1.0], Y[:2], BORDERS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'y'.*int64"):
        bar_log_prob(ROWS, Y[:2].long(), BORDERS)
