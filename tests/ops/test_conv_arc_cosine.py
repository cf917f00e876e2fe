"""Kernels of wide convolutional networks on every backend: against the float64 reference, gradients, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.reference import conv_arc_cosine as reference
from torch import Tensor

from tests.tolerances import ELEMENTWISE, SUM, assert_close

DTYPES = [torch.float64, torch.float32]
# rows, columns, (C, H, W), layers: the least, odd sizes, more than sixteen columns and than 128 pixels, one row
SHAPES = [(1, 1, (1, 1, 1), 1), (3, 18, (2, 3, 5), 3), (2, 3, (3, 12, 13), 2), (2, 33, (3, 1, 7), 4)]


def problem(rows: int, columns: int, image: tuple[int, ...], layers: int, activation: str = "relu") -> list[Tensor]:
    """x, z, their lengths, weights, biases, float64."""
    generator = torch.Generator().manual_seed(rows)
    x, z = (torch.randn(n, *image, generator=generator, dtype=torch.float64) for n in (rows, columns))
    weights, biases = (torch.rand(layers + 1, generator=generator, dtype=torch.float64) + s for s in (1.0, 0.1))
    how: dict[str, Any] = {"weights": weights, "biases": biases, "activation": activation}
    lengths = [pk.ops.conv_arc_cosine_diagonal(t, **how)[0] for t in (x, z)]
    return [x, z, *lengths, weights, biases]


def both(*tensors: Tensor, **how: Any) -> list[Tensor]:
    *images, weights, biases = tensors
    found = pk.ops.conv_arc_cosine(*images, weights=weights, biases=biases, **how)
    return [t for t in found if t is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [("relu", True), ("relu", False), ("erf", True)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(on: torch.device, shape: Any, kind: tuple[str, bool], dtype: torch.dtype) -> None:
    """Values, and gradients to all tensors."""
    how = {"activation": kind[0], "ntk": kind[1]}
    leaves = [t.to(on, dtype).requires_grad_() for t in problem(*shape, activation=kind[0])]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    got = both(*leaves, **how)
    with pk.use_backend("reference"):
        expected = both(*exact, **how)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        assert_close(one.detach(), other.detach(), dtype, ELEMENTWISE, 1024)
    grads = torch.autograd.grad([t.sum() for t in got], leaves)
    truths = torch.autograd.grad([t.sum() for t in expected], exact)
    for one, other in zip(grads, truths, strict=True):
        assert_close(one, other, dtype, SUM, 128 * shape[0] * shape[1] * math.prod(shape[2]))


@pytest.mark.parametrize("kind", [("relu", True), ("relu", False), ("erf", True), ("erf", False)], ids=str)
def test_the_written_backward_is_that_of_autograd(kind: tuple[str, bool]) -> None:
    code, ntk = ("relu", "erf").index(kind[0]), kind[1]
    leaves = [t.requires_grad_() for t in problem(3, 2, (2, 3, 4), 3, kind[0])]
    outputs = reference.conv_arc_cosine(*leaves, code, ntk)
    grads = [torch.randn_like(t) for t in outputs]
    kept = range(1 + ntk)
    truths = torch.autograd.grad([outputs[i] for i in kept], leaves, [grads[i] for i in kept])
    for got, truth in zip(reference.conv_arc_cosine_bwd(*leaves, *grads, code, ntk), truths, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-11)


def test_one_pixel_is_a_dense_network(on: torch.device) -> None:
    """A convolution of an image of one pixel has one weight of nine that counts."""
    x, z, of_x, of_z, weights, biases = (t.to(on) for t in problem(4, 5, (6, 1, 1), 3))
    ninths = torch.cat([weights[:-1] / 9, weights[-1:]])
    flat = [t.flatten(1) for t in (x, z)]
    k, diagonals = flat[0] @ flat[1].mT / 6, [t.square().mean(1) for t in flat]
    expected = pk.ops.arc_cosine(k, *diagonals, weights=ninths, biases=biases)
    for got, right in zip(both(x, z, of_x, of_z, weights, biases), expected, strict=True):
        torch.testing.assert_close(got, right)


def test_the_diagonal_is_that_of_the_matrix(on: torch.device) -> None:
    for activation in ("relu", "erf"):
        x, _, lengths, _, weights, biases = (t.to(on) for t in problem(3, 1, (2, 3, 3), 2, activation))
        how: dict[str, Any] = {"weights": weights, "biases": biases, "activation": activation}
        ends = pk.ops.conv_arc_cosine_diagonal(x, **how)[1:]
        for matrix, end in zip(both(x, x, lengths, lengths, weights, biases, activation=activation), ends, strict=True):
            torch.testing.assert_close(matrix.diagonal(), end, rtol=1e-6, atol=1e-6)


def test_nan_stays_in_its_image(on: torch.device) -> None:
    x, *rest = (t.to(on) for t in problem(3, 20, (1, 3, 3), 2))
    x[1, 0, 2, 2] = math.nan
    for got in both(x, *rest):
        assert got[1].isnan().all() and got[[0, 2]].isfinite().all()


def test_layouts_and_empty_tiles(on: torch.device) -> None:
    x, z, of_x, of_z, weights, biases = (t.to(on) for t in problem(3, 4, (2, 3, 3), 2))
    turned = both(z, x, of_z, of_x, weights, biases)
    last = (x.to(memory_format=torch.channels_last), z[..., :], of_x.mT.contiguous().mT, of_z, weights, biases)
    for one, other, third in zip(both(x, z, of_x, of_z, weights, biases), turned, both(*last), strict=True):
        torch.testing.assert_close(one.mT, other)
        torch.testing.assert_close(one, third)
    empty = [t.requires_grad_() for t in (x[:0], z, of_x[:0], of_z, weights, biases)]
    found = both(*empty)
    assert found[1].shape == (0, 4)
    for leaf, grad in zip(empty, torch.autograd.grad([t.sum() for t in found], empty), strict=True):
        assert grad.shape == leaf.shape and not grad.any()


def test_second_derivatives() -> None:
    given = [t.requires_grad_() for t in problem(2, 1, (1, 2, 2), 2)]
    assert torch.autograd.gradgradcheck(lambda *t: both(*t), given, fast_mode=True)


def test_memory_of_the_backward_grows_with_images_and_not_with_pairs() -> None:
    """Four times the images: four times the memory, where one number a pair and pixel would take sixteen times."""

    def peak(count: int) -> int:
        shapes = [(count, 1, 4, 4), (count, 1, 4, 4), (count, 2, 4, 4), (count, 2, 4, 4)]
        leaves = [torch.ones(shape).requires_grad_() for shape in shapes]
        kernels = both(*leaves, torch.ones(3), torch.ones(3))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
            torch.autograd.grad([t.sum() for t in kernels], leaves)
        return sum(max(0, event.self_cpu_memory_usage) for event in found.key_averages())

    small, large = peak(128), peak(512)
    assert large < 6 * small


def test_threads_do_not_change_bits() -> None:
    given = [t.requires_grad_() for t in problem(5, 40, (2, 4, 4), 2)]
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        kernels = both(*given)
        found.append([*kernels, *torch.autograd.grad([t.sum() for t in kernels], given)])
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


X = torch.ones(2, 1, 3, 3)
L = torch.ones(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "'x'.*float16", lambda: pk.ops.conv_arc_cosine(X.half(), X, L, L, weights=[1, 1])),
        (ValueError, "'x'", lambda: pk.ops.conv_arc_cosine(X[0], X, L, L, weights=[1, 1])),
        (ValueError, "'z'", lambda: pk.ops.conv_arc_cosine(X, X[..., :2], L, L, weights=[1, 1])),
        (ValueError, "'z'", lambda: pk.ops.conv_arc_cosine(X, X.double(), L, L, weights=[1, 1])),
        (ValueError, "'x_lengths'.*diagonal", lambda: pk.ops.conv_arc_cosine(X, X, L[:1], L, weights=[1, 1])),
        (ValueError, "'z_lengths'", lambda: pk.ops.conv_arc_cosine(X, X, L, L.double(), weights=[1, 1])),
        (ValueError, "'weights'", lambda: pk.ops.conv_arc_cosine(X, X, L, L, weights=[1])),
        (ValueError, "'biases'", lambda: pk.ops.conv_arc_cosine(X, X, L, L, weights=[1, 1], biases=[0])),
        (
            ValueError,
            "'activation'",
            lambda: pk.ops.conv_arc_cosine_diagonal(X, weights=[1, 1], activation="heaviside"),
        ),
    ],
)
def test_errors(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text):
        call()
