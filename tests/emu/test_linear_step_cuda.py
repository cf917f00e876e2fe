"""The CUDA kernels of a sampler's step on the emulator: whole and partial quads, aligned and not, all dtypes."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import linear_step
from probkernels.ops.linear_step import DOTS, padded
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import SUM, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

# rows, elements, where a tensor begins, outputs, inputs
CASES = [(1, 1, 0, 1, 1), (3, 5, 0, 2, 3), (2, 516, 0, 1, 8), (2, 516, 1, 8, 2)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(case: tuple[int, ...], dtype: torch.dtype, backend: str) -> tuple[list[Tensor], list[Tensor]]:
    """Steps, and dots."""
    torch.manual_seed(0)
    rows, n, offset, outputs, count = case

    def normal(*lead: int) -> Tensor:
        size = torch.Size((*lead, rows, n)).numel()
        return torch.randn(size + offset).to(dtype)[offset:].view(*lead, rows, n)

    x, y, seeds = [normal() for _ in range(count)], normal(outputs), torch.arange(rows) * 2**35 - 3
    c, d = torch.randn(rows, outputs, count), torch.randn(rows, outputs)
    with use_backend(backend):
        shared = linear_step(x, c[0], noise=d[0], seeds=2**40, step=7, first_row=5)
        steps = [*shared, *linear_step(x, c, noise=d, seeds=seeds), *linear_step(x, c)]
        dots = [
            DOTS.call(y, *padded(x), noisy, by_row, seeds if by_row else None, 9, 0, 3)
            for noisy, by_row in ((True, False), (True, True), (False, False))
        ]
    return steps, dots


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(
    case: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps to the bit; dots among themselves."""
    runs = []
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(case, dtype, "cuda_emu"))
    expected, sums = run(case, dtype, "reference")
    for steps, dots in runs:
        assert all(torch.equal(p, q) for p, q in zip(steps, expected, strict=True))
        assert all(torch.equal(p, q) for p, q in zip(dots, runs[0][1], strict=True))
    for got, truth in zip(runs[0][1], sums, strict=True):
        assert_close(got, truth, torch.float64, SUM, terms=case[0] * case[1])


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(DTYPES) * len(CASES))
