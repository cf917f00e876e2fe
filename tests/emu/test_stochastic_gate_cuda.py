"""The CUDA kernels of stochastic gates on the emulator: whole and partial quads, aligned and not, all dtypes."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops.stochastic_gate import BACKWARD, MODES, OP
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

CASES = [(1, 1, 0), (3, 5, 0), (2, 516, 0), (2, 516, 1)]  # rows, elements, where a tensor begins
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(case: tuple[int, int, int], dtype: torch.dtype, backend: str) -> list[Tensor]:
    torch.manual_seed(0)
    rows, n, offset = case
    a, v, grad = (torch.randn(rows * n + offset).to(dtype)[offset:].view(rows, n) for _ in range(3))
    seeds, found = torch.arange(rows) * 2**35 - 3, []
    with use_backend(backend):
        for mode in MODES:
            found.append(OP.call(a, v, None, 2**40, 5, 7, mode, True, 1.5))
            found += BACKWARD.call(grad, a, v, seeds, 0, 0, 2**33, mode, True, 1.5)
            found += BACKWARD.call(grad, a, None, seeds[0], 0, 1, 2, mode, True, 1.5)
        found.append(OP.call(a, None, None, 0, 0, 0, MODES[0], False, 1.0))
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(
    case: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit."""
    expected = run(case, dtype, "reference")
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        assert all(torch.equal(p, q) for p, q in zip(run(case, dtype, "cuda_emu"), expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(DTYPES) * len(CASES))
