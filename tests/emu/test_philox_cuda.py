"""The CUDA kernel of random numbers on the emulator: whole and partial quads, aligned and not, all dtypes."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import philox_normal, philox_uniform
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

CASES = [(1, 1), (3, 5), (2, 8), (3, 1028), (700, 3)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def run(shape: tuple[int, int], dtype: torch.dtype, backend: str) -> list[Tensor]:
    seeds = torch.arange(shape[0]) * 2**35 - 3
    with use_backend(backend):
        return [
            philox_normal(2**40, shape, step=2**33, first_row=5, dtype=dtype),
            philox_uniform(seeds, shape, step=3, dtype=dtype),
        ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_the_reference_in_every_order(
    case: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
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
