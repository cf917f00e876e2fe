"""Sums of RBF kernels on every backend: against sums over all pairs in float64, tiles, far points, special values."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import probkernels as pk
import pytest
import torch
from probkernels.ops import rbf_mean
from torch import Tensor

from tests import backends
from tests.tolerances import SUM, assert_close

MODULE = importlib.import_module("probkernels.ops.rbf_mean")
# functions, rows, points, features: the least, primes, whole tiles of the C++ kernel and one more, wide sums
SHAPES = [(1, 1, 1, 1), (3, 5, 7, 2), (1, 64, 128, 15), (2, 65, 129, 16), (1, 70, 300, 24), (1, 3, 40, 70)]


@pytest.fixture(params=[name for name in backends.names() if not name.startswith("cuda")])
def on(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """That of conftest.py for the backends that the op has: on a GPU it is Triton's alone."""
    if reason := backends.skip_reason(request.param):
        pytest.skip(reason)
    with pk.use_backend(request.param):
        yield backends.device(request.param)


def problem(functions: int, rows: int, points: int, features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points at distances of about one lengthscale; weights that keep sums near one."""
    generator = torch.Generator().manual_seed(rows)
    sizes = (functions, rows, features), (points, features), (functions, points)
    x, z, w = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return x / features**0.5, z / features**0.5, w / points**0.5


def exact(x: Tensor, z: Tensor, w: Tensor, scale: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """From the differences of all pairs, in float64."""
    x, z, w, scale, variance = (t.double() for t in (x, z, w, scale, variance))
    away = (z - x[:, :, None]) / scale[:, None, None, None]
    kernel = variance[:, None, None] * w[:, None] * (away.square().sum(-1) / -2).exp()
    return kernel.sum(-1), (kernel[..., None] * away).sum(2) / scale[:, None, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_sums_over_all_pairs(on: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    functions = shape[0]
    hyper = torch.linspace(0.8, 1.5, functions), torch.linspace(1.2, 0.7, functions)
    inputs = [t.to(on, dtype) for t in (*problem(*shape), *hyper)]
    for got, truth in zip(rbf_mean(*inputs), exact(*inputs), strict=True):
        assert_close(got, truth, dtype, SUM, 512)


def test_far_points_are_sums_of_differences(on: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "ROWS", 2)
    x, z = torch.tensor([[1e4], [0.0], [-1e4]], device=on), torch.tensor([[1e4 - 0.5], [-1e4]], device=on)
    value, _ = rbf_mean(x, z, torch.tensor([1.0, 2.0], device=on), 1.0, 1.0)
    torch.testing.assert_close(value.cpu(), torch.tensor([math.exp(-0.125), 0.0, 2.0]))


def test_a_row_does_not_see_other_rows(on: torch.device) -> None:
    """NaN stays in its row; distant rows are zero."""
    x, z, w = (t.to(on) for t in problem(1, 70, 130, 3))
    x[0, 4], x[0, 66] = math.nan, 50.0
    value, grad = rbf_mean(x[0], z, w[0], 1.0, 1.0)
    bad = torch.zeros(70, dtype=torch.bool, device=on)
    bad[4] = True
    assert torch.equal(value.isnan(), bad) and torch.equal(grad.isnan().all(1), bad)
    assert value[66] == 0 and not grad[66].any()


def test_weights_of_zero_and_no_rows(on: torch.device) -> None:
    x, z, w = (t.to(on) for t in problem(2, 5, 9, 3))
    value, grad = rbf_mean(x, z, 0 * w, 1.0, 1.0)
    assert not value.any() and not grad.any()
    value, grad = rbf_mean(x[:, :0], z, w, 1.0, 1.0)
    assert value.shape == (2, 0) and grad.shape == (2, 0, 3)


def test_strides_do_not_matter(on: torch.device) -> None:
    x, z, w = (t.to(on) for t in problem(2, 6, 9, 3))
    turned = [t.mT.contiguous().mT for t in (x, z, w)]
    torch.testing.assert_close(rbf_mean(*turned, 1.0, 1.0), rbf_mean(x, z, w, 1.0, 1.0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    inputs = [t.float() for t in problem(2, 150, 300, 5)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rbf_mean(*inputs, 1.0, 1.0)
        torch.set_num_threads(threads)
        many = rbf_mean(*inputs, 1.0, 1.0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(one, many, strict=True))


def test_the_ways_with_and_without_derivatives_agree(on: torch.device) -> None:
    x, z, w = (t.to(on) for t in problem(2, 6, 9, 3))
    plain = rbf_mean(x, z, w, 1.3, 0.7)
    x.requires_grad_()
    value, grad = rbf_mean(x, z, w, 1.3, 0.7)
    torch.testing.assert_close((value, grad), plain)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], grad)
    slope = torch.func.grad(lambda t: MODULE.OP.call(t, z.expand(2, -1, -1), w)[0].sum())(x.detach())
    torch.testing.assert_close(slope, rbf_mean(x.detach(), z, w, 1.0, 1.0)[1])
