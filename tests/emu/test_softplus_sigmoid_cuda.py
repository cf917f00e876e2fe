"""The CUDA kernels of softplus with its derivative on the emulator: whole and partial quads, aligned and not."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops.softplus_sigmoid import BACKWARD, OP
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import ELEMENTWISE, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

CASES = [(1, 0), (7, 0), (1028, 0), (1028, 1)]  # elements, where a tensor begins
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(case: tuple[int, int], dtype: torch.dtype, backend: str) -> list[Tensor]:
    torch.manual_seed(0)
    n, offset = case
    x, of_value, of_slope = (torch.randn(n + offset).to(dtype)[offset:] for _ in range(3))
    with use_backend(backend):
        return [*OP.call(x, 2.5), BACKWARD.call(of_value, of_slope, x, 2.5)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(
    case: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(case, dtype, "cuda_emu"))
    for got, again, expected in zip(runs[0], runs[-1], run(case, dtype, "reference"), strict=True):
        assert torch.equal(got, again)
        assert_close(got, expected, dtype, ELEMENTWISE)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(DTYPES) * len(CASES))
