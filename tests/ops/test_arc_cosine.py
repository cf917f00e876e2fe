"""Kernels of wide networks on every backend: against the float64 reference, closed forms, gradients, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels.ops.arc_cosine import BWD, FWD
from probkernels.reference import arc_cosine as reference
from torch import Tensor

from tests.tolerances import ELEMENTWISE, SUM, assert_close

DTYPES = [torch.float64, torch.float32]
# batch, rows, columns, layers: the least, odd sizes, more than a block of rows and of columns
SHAPES = [(1, 1, 1, 1), (2, 7, 5, 3), (1, 33, 150, 2), (1, 70, 17, 4)]
KINDS = [("relu", True), ("relu", False), ("erf", True), ("erf", False), ("heaviside", False)]


def problem(batch: int, rows: int, columns: int, layers: int, same: bool = False) -> tuple[Tensor, ...]:
    """k, both diagonals, weights, biases, float64."""
    generator = torch.Generator().manual_seed(rows)
    x, z = (torch.randn(batch, n, 6, generator=generator, dtype=torch.float64) for n in (rows, columns))
    z = x if same else z
    weights, biases = (torch.rand(layers + 1, generator=generator, dtype=torch.float64) + s for s in (1.0, 0.0))
    return x @ z.mT / 6, x.square().mean(-1), z.square().mean(-1), weights, biases


def both(k: Tensor, x: Tensor, z: Tensor | None, weights: Tensor, biases: Tensor, **how: Any) -> list[Tensor]:
    return [t for t in pk.ops.arc_cosine(k, x, z, weights=weights, biases=biases, **how) if t is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(on: torch.device, shape: tuple[int, ...], kind: tuple[str, bool], dtype: Any) -> None:
    """Values and gradients to all tensors; with and without residual blocks, with and without a diagonal."""
    (activation, ntk), (batch, rows, columns, layers) = kind, shape
    for residual, same in ((False, False), (True, False), (True, True)):
        given = problem(batch, rows, rows if same else columns, layers, same)
        how = {"activation": activation, "residual": residual, "ntk": ntk}
        leaves = [t.to(on, dtype).requires_grad_() for t in given]
        exact = [t.detach().double().requires_grad_() for t in leaves]
        places = (0, 1, 3, 4) if same else range(5)
        with pk.use_backend("reference"):
            expected = both(exact[0], exact[1], None if same else exact[2], *exact[3:], **how)
        got = both(leaves[0], leaves[1], None if same else leaves[2], *leaves[3:], **how)
        seeds = [torch.randn(t.shape, dtype=torch.float64, device=on) for t in got]
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == dtype
            assert_close(one.detach(), other.detach(), dtype, ELEMENTWISE, 4096)
        grads = torch.autograd.grad(got, [leaves[i] for i in places], [s.to(dtype) for s in seeds])
        with pk.use_backend("reference"):
            truths = torch.autograd.grad(expected, [exact[i] for i in places], seeds)
        for one, other in zip(grads, truths, strict=True):
            assert_close(one, other, dtype, SUM, 128 * rows * columns)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_written_backward_is_that_of_autograd(kind: tuple[str, bool]) -> None:
    code, ntk = ("relu", "erf", "heaviside").index(kind[0]), kind[1]
    for residual, same in ((False, False), (True, True)):
        k, of_x, of_z, weights, biases = problem(2, 4, 4, 3, same)
        lengths = [reference.diagonals(t, weights, biases, code, residual)[0] for t in (of_x, of_z)]
        diagonal = torch.randn(2, 2, 4 if same else 0, dtype=torch.float64)
        leaves = [t.requires_grad_() for t in (k, *lengths, weights, biases)]
        outputs = reference.arc_cosine(*leaves, diagonal, code, residual, ntk)
        grads = [torch.randn_like(t) for t in outputs]
        kept = range(1 + ntk)
        truths = torch.autograd.grad([outputs[i] for i in kept], leaves, [grads[i] for i in kept])
        found = reference.arc_cosine_bwd(*leaves, diagonal, *grads, code, residual, ntk)
        for got, truth in zip(found, truths, strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-11)


def test_closed_forms_of_gram_matrices(on: torch.device) -> None:
    """Kernels of deep kernel machines, which keep the diagonal."""
    gram = torch.tensor([[1, 0.3, 0.1], [0.3, 1, 0.2], [0.1, 0.2, 1]], dtype=torch.float64, device=on)
    relu, _ = pk.ops.arc_cosine(gram, gram.diagonal(), weights=[1, 1], normalize=True, ntk=False)
    expected = torch.tensor([0.48274428, 0.36990277, 0.42469756], dtype=torch.float64, device=on)
    torch.testing.assert_close(relu[[0, 0, 1], [1, 2, 2]], expected, rtol=0, atol=6e-9)
    assert torch.equal(relu.diagonal(), gram.diagonal())
    scaled = gram * torch.tensor([[1.0, 6], [6, 36]], device=on).double().repeat(2, 2)[:3, :3]
    how = {"weights": [1, 1], "normalize": True, "ntk": False, "activation": "heaviside"}
    found, _ = pk.ops.arc_cosine(scaled, scaled.diagonal(), **how)
    root = scaled.diagonal().sqrt()
    lengths = root[:, None] * root
    right = lengths * (1 - torch.acos((scaled / lengths).clamp(-1, 1)) / math.pi)
    torch.testing.assert_close(found, right)
    block, _ = pk.ops.arc_cosine(scaled[:, :2], scaled.diagonal(), scaled.diagonal()[:2], **how)
    torch.testing.assert_close(block, right[:, :2], rtol=1e-7, atol=1e-7)  # equal points are not known to be equal


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_opposite_and_zero_points_have_finite_gradients(on: torch.device, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, device=on)
    for activation in ("relu", "erf"):
        for z in (None, x.square().sum(-1)):
            leaves = [t.requires_grad_() for t in (x @ x.mT, x.square().sum(-1))]
            outputs = pk.ops.arc_cosine(*leaves, z, weights=[1.0, 2.0, 1.5], activation=activation)
            grads = torch.autograd.grad([t.sum() for t in outputs if t is not None], leaves)
            assert all(t.isfinite().all() for t in (*outputs, *grads) if t is not None)


def test_nan_stays_where_it_is(on: torch.device) -> None:
    k, of_x, of_z, weights, biases = (t.to(on) for t in problem(1, 4, 20, 2))
    k[0, 1, 3] = math.nan
    for got in both(k, of_x, of_z, weights, biases):
        assert got.isnan().sum() == 1 and got[0, 1, 3].isnan()


def test_layouts_and_empty_blocks(on: torch.device) -> None:
    k, of_x, of_z, weights, biases = (t.to(on) for t in problem(2, 6, 9, 2))
    turned = both(k.mT, of_z, of_x, weights, biases)
    for one, other in zip(both(k, of_x, of_z, weights, biases), turned, strict=True):
        torch.testing.assert_close(one.mT, other)
    assert both(k[:, :0], of_x[:, :0], of_z, weights, biases)[1].shape == (2, 0, 9)
    assert both(k[:0], of_x[:0], of_z[:0], weights, biases)[0].shape == (0, 6, 9)


def test_second_derivatives() -> None:
    given = [t.requires_grad_() for t in problem(1, 2, 3, 2)]
    assert torch.autograd.gradgradcheck(lambda *t: both(t[0], t[1], t[2], t[3], t[4]), given)


def test_diagonal_is_that_of_the_matrix() -> None:
    k, of_x, _, weights, biases = problem(2, 5, 5, 3, same=True)
    for activation in ("relu", "erf"):
        how = {"weights": weights, "biases": biases, "activation": activation, "residual": True}
        for got, matrix in zip(pk.ops.arc_cosine_diagonal(of_x, **how), pk.ops.arc_cosine(k, of_x, **how), strict=True):
            torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1), got, rtol=0, atol=0)


def test_threads_do_not_change_bits() -> None:
    args = FWD.examples(torch.device("cpu"), torch.float32)[0]
    big = [t.repeat_interleave(80, -2) if t.ndim == 3 and t.shape[-2] == 3 else t for t in args[:1]]
    assert big[0].shape[-2] == 240
    left = args[1].repeat_interleave(80, -1)
    grads = [torch.randn(2, 240, 5), torch.randn(2, 240, 5)]
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(BWD.call(big[0], left, *args[2:6], *grads, *args[6:]))
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


K, D = torch.eye(2), torch.ones(2)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "'k'.*float16", lambda: pk.ops.arc_cosine(K.half(), D.half(), weights=[1, 1])),
        (ValueError, "'x_diagonal'", lambda: pk.ops.arc_cosine(K, D[:1], weights=[1, 1])),
        (TypeError, "'z_diagonal'", lambda: pk.ops.arc_cosine(K, D, D.double(), weights=[1, 1])),
        (ValueError, "'z_diagonal'", lambda: pk.ops.arc_cosine(K[:1], D[:1], weights=[1, 1])),
        (ValueError, "'weights'", lambda: pk.ops.arc_cosine(K, D, weights=[1])),
        (ValueError, "'weights'.*at .1", lambda: pk.ops.arc_cosine(K, D, weights=[1, -1])),
        (ValueError, "'biases'", lambda: pk.ops.arc_cosine(K, D, weights=[1, 1], biases=[0, 0, 0])),
        (ValueError, "did you mean 'erf'", lambda: pk.ops.arc_cosine(K, D, weights=[1, 1], activation="erff")),
        (ValueError, "'ntk'", lambda: pk.ops.arc_cosine(K, D, weights=[1, 1], activation="heaviside")),
        (ValueError, "'normalize'", lambda: pk.ops.arc_cosine(K, D, weights=[1, 1], activation="erf", normalize=True)),
    ],
)
def test_errors(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=text):
        call()
