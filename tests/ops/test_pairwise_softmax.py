"""Pairwise softmax on every backend: against sums of differences in float64, tiles, narrow kernels, symmetries."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor

from tests import backends
from tests.tolerances import ELEMENTWISE, SUM, assert_close

DTYPES = [torch.float64, torch.float32]
# points, features, classes, sigma: the least, primes, 2^k +- 1, more than a tile, classes of one point, empty classes
SHAPES = [(2, 1, 1, 1.0), (7, 3, 2, 1.0), (33, 17, 5, 3.0), (129, 4, 40, 1.0), (300, 2, 3, 0.5), (65, 31, 90, 4.0)]


@pytest.fixture(params=[name for name in backends.names() if not name.startswith("cuda")])
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """That of conftest.py for the backends that the op has: on a GPU it is Triton's alone."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small inputs have several."""
    module = importlib.import_module("probkernels.ops.pairwise_softmax")
    monkeypatch.setattr(module, "ROWS", 32)
    monkeypatch.setattr(module, "COLUMNS", 48)


def problem(points: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    return torch.randn(points, features, dtype=torch.float64), torch.randint(classes, (points,))


def exact(x: Tensor, labels: Tensor, classes: int, sigma: float) -> tuple[Tensor, Tensor]:
    """From the differences of all pairs, in float64; differentiable."""
    score = -(x.double()[:, None] - x.double()).square().sum(2) / (2 * sigma**2)
    score = score.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), -math.inf)
    return score.softmax(1) @ torch.nn.functional.one_hot(labels, classes).double(), score.logsumexp(1)


def gradient(outputs: tuple[Tensor, Tensor], x: Tensor, grads: tuple[Tensor, Tensor]) -> Tensor:
    (grad,) = torch.autograd.grad(outputs, x, [g.to(o.dtype) for g, o in zip(grads, outputs, strict=True)])
    return grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_sums_over_all_pairs(on: torch.device, shape: tuple[Any, ...], dtype: torch.dtype) -> None:
    points, features, classes, sigma = shape
    x, labels = problem(points, features, classes)
    x, labels = x.to(on, dtype).requires_grad_(), labels.to(on)
    outputs, expected = pk.ops.pairwise_softmax(x, labels, classes, sigma), exact(x, labels, classes, sigma)
    assert outputs[0].dtype == outputs[1].dtype == dtype
    for got, truth in zip(outputs, expected, strict=True):
        assert_close(got.detach(), truth.detach(), dtype, ELEMENTWISE, 1024)  # a score adds up D terms of any size
    grads = torch.randn(points, classes, device=on), torch.randn(points, device=on)
    assert_close(gradient(outputs, x, grads), gradient(expected, x, grads), dtype, SUM, 1024)


def test_hand_computed(on: torch.device) -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64, device=on)
    shares, log_sums = pk.ops.pairwise_softmax(x, torch.tensor([0, 0, 1], device=on), 2)
    s = {d: math.exp(-(d**2) / 2) for d in (1, 2, 3)}
    right = torch.tensor([s[1] / (s[1] + s[3]), s[1] / (s[1] + s[2]), 1.0], dtype=torch.float64, device=on)
    assert_close(shares, torch.stack([right, 1 - right], 1), torch.float64, ELEMENTWISE)
    assert_close(log_sums[1], torch.tensor(s[1] + s[2], device=on).log(), torch.float32, ELEMENTWISE)


@pytest.mark.parametrize("tile", [1, 5, 16, 1000])
def test_any_tile_gives_the_same(on: torch.device, tile: int) -> None:
    x, labels = problem(100, 6, 4)
    x, labels = x.float().to(on).requires_grad_(), labels.to(on)
    grads = torch.randn(100, 4, device=on), torch.randn(100, device=on)
    outputs, whole = (pk.ops.pairwise_softmax(x, labels, 4, 1.5, tile=t) for t in (tile, None))
    for got, expected in zip(outputs, whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient(outputs, x, grads), gradient(whole, x, grads), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 17, 64])
def test_any_width_of_tiles_gives_the_same(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Also one in which a row meets itself alone before any other point."""
    module = importlib.import_module("probkernels.ops.pairwise_softmax")
    monkeypatch.setattr(module, "COLUMNS", columns)
    x, labels = problem(70, 3, 5)
    x.requires_grad_()
    grads = torch.randn(70, 5), torch.randn(70)
    outputs, expected = pk.ops.pairwise_softmax(x, labels, 5, 0.7), exact(x, labels, 5, 0.7)
    for got, truth in zip(outputs, expected, strict=True):
        assert_close(got.detach(), truth.detach(), torch.float64, ELEMENTWISE)
    assert_close(gradient(outputs, x, grads), gradient(expected, x, grads), torch.float64, SUM)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sigma", [1e-3, 1e-8])
def test_a_narrow_kernel_sees_the_nearest_neighbor(sigma: float, dtype: torch.dtype) -> None:
    """Every exponential underflows without the maximum; float32 products alone would lose the neighbor."""
    x, labels = problem(200, 5, 3)
    x = (x + 3).to(dtype).requires_grad_()
    distance = torch.cdist(x.detach().double(), x.detach().double()).fill_diagonal_(math.inf)
    shares, log_sums = pk.ops.pairwise_softmax(x, labels, 3, sigma)
    assert torch.equal(shares.argmax(1), labels[distance.argmin(1)]) and (shares.amax(1) > 0.9).all()
    assert_close(log_sums * sigma**2, -distance.amin(1).square() / 2, dtype, ELEMENTWISE)
    (shares.sum() + log_sums.mean()).backward()
    assert x.grad.isfinite().all()


def test_symmetries(on: torch.device) -> None:
    """Rotation, translation, a common factor of points and width, a permutation of points, other names of classes."""
    x, labels = problem(90, 5, 3)
    x, labels = x.to(on), labels.to(on)
    shares, log_sums = pk.ops.pairwise_softmax(x, labels, 3, 0.8)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0].to(on)
    order, name = torch.randperm(90).to(on), torch.tensor([2, 0, 1], device=on)
    for other, sigma in ((x @ rotation, 0.8), (x + 100, 0.8), (7 * x, 5.6)):
        got = pk.ops.pairwise_softmax(other, labels, 3, sigma)
        torch.testing.assert_close(got, (shares, log_sums), rtol=1e-10, atol=1e-10)
    moved = pk.ops.pairwise_softmax(x[order], name[labels[order]], 3, 0.8)
    torch.testing.assert_close(moved[0][:, name], shares[order], rtol=1e-12, atol=1e-12)
    assert_close(shares.sum(1), torch.ones(90, device=on), torch.float64, ELEMENTWISE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identical_points_share_equally(on: torch.device, dtype: torch.dtype) -> None:
    x = torch.full((5, 3), 0.3, device=on, dtype=dtype).requires_grad_()
    shares, log_sums = pk.ops.pairwise_softmax(x, torch.tensor([0, 0, 1, 2, 0], device=on), 3, 0.1)
    assert_close(shares[0].detach(), torch.tensor([0.5, 0.25, 0.25], device=on), dtype, ELEMENTWISE)
    assert_close(log_sums.detach(), torch.full((5,), math.log(4), device=on), torch.float32, ELEMENTWISE)
    shares[:, 0].sum().backward()
    assert not x.grad.abs().gt(1e-6).any()


def test_half_precision_is_computed_in_float32(on: torch.device) -> None:
    x, labels = problem(50, 4, 3)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = x.to(on, dtype).requires_grad_()
        shares, _ = pk.ops.pairwise_softmax(rounded, labels.to(on), 3)
        assert shares.dtype is torch.float32
        assert_close(
            shares.detach(), exact(rounded.detach(), labels.to(on), 3, 1.0)[0], torch.float32, ELEMENTWISE, 512
        )
        shares[:, 0].sum().backward()
        assert rounded.grad.dtype is dtype and rounded.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    x, labels = problem(50, 4, 3)
    x = x.float().requires_grad_()
    (expected,) = torch.autograd.grad(pk.ops.pairwise_softmax(x, labels, 3)[0][:, 0].sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        shares, _ = pk.ops.pairwise_softmax(x, labels, 3)
        (got,) = torch.autograd.grad(shares[:, 0].sum(), x)
    assert torch.equal(got, expected)


def test_what_is_no_number_shows(on: torch.device) -> None:
    x, labels = problem(40, 3, 2)
    for value in (math.nan, math.inf):
        x[7, 1] = value
        shares, log_sums = pk.ops.pairwise_softmax(x.float().to(on), labels.to(on), 2)
        assert shares.isnan().all() and log_sums.isnan().all()


def test_derivatives_to_second_order() -> None:
    x, labels = problem(9, 2, 3)
    x.requires_grad_()
    torch.autograd.gradcheck(lambda t: pk.ops.pairwise_softmax(t, labels, 3, 0.9), x)
    torch.autograd.gradgradcheck(lambda t: pk.ops.pairwise_softmax(t, labels, 3, 0.9), x)


def test_gradients_add_up_to_nothing(on: torch.device) -> None:
    """A translation of all points changes nothing."""
    x, labels = problem(150, 4, 3)
    x = x.to(on).requires_grad_()
    pk.ops.pairwise_softmax(x, labels.to(on), 3, 0.5)[0].amax(1).mean().backward()
    assert x.grad.abs().amax() > 1e-4 and x.grad.sum(0).abs().amax() < 1e-12


GOOD = {"x": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 1, 0]), "classes": 2}
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1.0]}, TypeError, "pairwise_softmax: argument 'x': expected a floating-point tensor, got list"),
    ({"x": torch.zeros(4)}, ValueError, "argument 'x': expected shape \\(points, features\\)"),
    ({"x": torch.zeros(1, 3), "labels": torch.zeros(1).long()}, ValueError, "at least two points"),
    ({"labels": torch.zeros(4)}, TypeError, "argument 'labels': expected an integer tensor"),
    ({"labels": torch.zeros(3).long()}, ValueError, "argument 'labels': expected shape \\(4,\\)"),
    ({"labels": torch.tensor([0, 2, 0, -1])}, ValueError, "'labels': expected classes 0 to 1, got 2 at \\[1\\], and 1"),
    ({"classes": 0}, ValueError, "argument 'classes'"),
    ({"sigma": 0.0}, ValueError, "argument 'sigma': expected a positive number"),
    ({"sigma": "a"}, TypeError, "argument 'sigma'"),
    ({"tile": 0}, ValueError, "argument 'tile'"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pk.ops.pairwise_softmax(**{**GOOD, **change})


@pytest.mark.parametrize(("far", "sigma"), [(1e15, 1.0), (1e30, 1.0), (1.0, 1e-7)])
def test_distances_keep_their_digits_beside_large_coordinates(far: float, sigma: float) -> None:
    """A distant point, or a narrow kernel: inner products lose the distances between the other points."""
    x, labels = problem(50, 3, 3)
    x[7] = far
    x, grads = x.float().requires_grad_(), (torch.randn(50, 3), torch.randn(50))
    for grad in grads:
        grad[7] = 0  # which neighbor is nearest to that point, no float can tell
    y = x.detach().double().requires_grad_()
    scores = -(y[:, None] - y).square().sum(2) / (2 * sigma**2)
    scores = scores.masked_fill(torch.eye(50, dtype=torch.bool), -math.inf)
    expected = scores.softmax(1) @ torch.nn.functional.one_hot(labels, 3).double(), scores.logsumexp(1)
    outputs = pk.ops.pairwise_softmax(x, labels, 3, sigma)
    others = torch.arange(50) != 7
    for got, truth in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got[others].double(), truth[others].detach(), rtol=1e-5, atol=1e-6)
    got, truth = gradient(outputs, x, grads), gradient(expected, y, grads)
    torch.testing.assert_close(got[others].double(), truth[others], rtol=1e-4, atol=1e-4 * float(truth[others].norm()))
