"""The Triton kernels of sum layers in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import math

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import sum_layer, sum_layer_bwd
from torch import Tensor

from tests.interp.test_power_norm_triton import inside, interpret, outside
from tests.tolerances import ELEMENTWISE, SUM, assert_close

pytest.importorskip("triton", reason="triton is not installed")

# groups, outs, ins, batch: one of each; several tiles each way; the batch is split
CASES = [
    ((1, 1, 1, 1), torch.float64),
    ((2, 18, 17, 17), torch.float32),
    ((1, 5, 3, 130), torch.float32),
    ((1, 5, 3, 130), torch.float64),
]


def problem(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """x, weights and grad_y: impossible inputs, missing edges, outputs far below the others, one without any input."""
    groups, outs, ins, batch = shape
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(groups, ins, batch, generator=generator, dtype=torch.float64)
    weights = torch.rand(groups, outs, ins, generator=generator, dtype=torch.float64)
    if ins > 2:
        x[0, 1, 0], x[0, :, 1] = -math.inf, -math.inf
        x[0, 0, :8] -= 800
        weights[:, outs // 2, 1:] = 0  # sees the lowest input alone
        weights[0, 0] = 0
    grad_y = torch.rand(groups, outs, batch, generator=generator, dtype=torch.float64)
    return [t.to(dtype) for t in (x, weights, grad_y)]


def run(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> list[Tensor]:
    x, weights, grad_y = problem(shape, dtype)
    with use_backend(backend):
        y = sum_layer(x, weights)
        return [y, *sum_layer_bwd(x, weights, y, grad_y)]


EDGES = "edge and 1.0 and (subnormal or infinity or far) or infinite and (1e-44 or 3e+38) or tiny_flow and 549755813888"
EDGES_COUNT = 9


@outside
def test_kernels_in_the_interpreter() -> None:
    """This file's tests, and some of extreme weights: subnormal, large, overflowing sums, infinite inputs."""
    files = __file__, "tests/ops/test_sum_layer_range.py"
    chosen = f"equal_the or same_bits or triton_interp and ({EDGES})"
    assert f"{len(CASES) + 1 + EDGES_COUNT} passed" in interpret(*files, "-k", chosen)


@outside
@pytest.mark.slow
def test_op_tests_in_the_interpreter() -> None:
    assert "passed" in interpret(
        "tests/ops/test_sum_layer.py", "tests/ops/test_sum_layer_range.py", "-k", "triton_interp"
    )


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small inputs have several."""
    from probkernels.triton_kernels import sum_layer as kernels

    monkeypatch.setattr(kernels, "MOST", 16)
    monkeypatch.setattr(kernels, "SPLIT_SAMPLES", 64)


@inside
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_kernels_equal_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    (y, *grads), (expected, *expected_grads) = (run(shape, dtype, name) for name in ("triton_interp", "reference"))
    assert_close(y, expected, dtype, ELEMENTWISE)
    for got, truth, terms in zip(grads, expected_grads, (shape[1], shape[3]), strict=True):
        finite = truth.clamp(-1e6, 1e6) == truth  # of an input without weight, far above the sum
        assert torch.equal(finite, got.clamp(-1e6, 1e6) == got)
        scale = truth[finite].abs().amax().clamp(min=1)
        assert_close(got[finite] / scale, truth[finite] / scale, dtype, SUM, terms)


@inside
def test_every_run_gives_the_same_bits() -> None:
    first, second = (run((1, 5, 3, 130), torch.float32, "triton_interp") for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
