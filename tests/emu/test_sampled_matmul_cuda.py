"""The CUDA kernels of the sampled products on the emulator: every way to split the work, in every order of threads."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
import torch
from probkernels import use_backend
from probkernels._core.formats.bitmap import pack
from probkernels.ops import Selection
from probkernels.ops.sampled_matmul import CONV, MATMUL
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import SUM, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough


class Case(NamedTuple):
    """grad_y (tokens, rows) and x (tokens, columns), or the images and window of a convolution."""

    y_shape: tuple[int, ...]
    x_shape: tuple[int, ...]
    weight: tuple[int, ...]
    density: float
    listed: bool
    dtype: torch.dtype
    window: tuple[Any, ...] = ()  # stride, padding, dilation, groups

    def make(self) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(len(self.weight) + self.weight[0])
        factors = [
            torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)
            for shape in (self.y_shape, self.x_shape)
        ]
        mask = torch.rand(self.weight, generator=generator) < self.density
        index = mask.flatten().nonzero()[:, 0].int()
        selected = Selection(mask.shape, len(index), *((index, None, None) if self.listed else (None, *pack(mask))))
        return (*factors, *selected.tensors, selected.count, *((self.weight[2:], *self.window) if self.window else ()))


def matmul(tokens: int, rows: int, columns: int, density: float, listed: bool, dtype: torch.dtype) -> Case:
    return Case((tokens, rows), (tokens, columns), (rows, columns), density, listed, dtype)


PLANE = ((2, 1), (1, 2), (1, 2), 2)
CASES = [
    matmul(1, 1, 1, 1.0, True, torch.float32),
    matmul(70, 40, 33, 0.2, True, torch.bfloat16),  # several blocks of warps; the last is not full
    matmul(33, 7, 600, 0.05, False, torch.float16),  # rows longer than a block of a bitmap
    matmul(40, 90, 20, 0.5, False, torch.float32),  # many rows in one
    matmul(515, 3, 5, 0.7, False, torch.float64),
    matmul(1100, 5, 7, 0.5, True, torch.float32),
    Case((2, 4, 4, 5), (2, 6, 8, 3), (4, 3, 3, 2), 0.4, False, torch.float32, PLANE),
    Case((3, 4, 9), (3, 2, 9), (4, 2, 3), 0.4, True, torch.bfloat16, ((1,), (1,), (1,), 1)),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.weight}-{str(c.dtype)[6:]}")


def run(case: Case, backend: str) -> Tensor:
    with use_backend(backend):
        return (CONV if case.window else MATMUL).call(*case.make())


def check(case: Case, got: Tensor) -> None:
    """``got`` equals the reference in float64."""
    op = CONV if case.window else MATMUL
    args = case.make()
    expected = op.reference(*(factor.double() for factor in args[:2]), *args[2:])
    assert_close(got, expected, case.dtype, SUM, terms=args[0].numel() // case.weight[0])


@each_case
def test_kernels_equal_the_reference_in_every_order(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for order in ORDERS[:1] if SANITIZED else (*ORDERS, ORDERS[0]):
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(case, "cuda_emu"))
    check(case, runs[0])
    assert all(torch.equal(runs[0], other) for other in runs[1:])


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(CASES))
