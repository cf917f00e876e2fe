"""The CUDA kernels of lookups and sums by category on the emulator, in every order of threads."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import leaf_gather, leaf_histogram
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

# variables, categories, units, batch: single units and rows of 16 bytes, several blocks of units and samples, tables
# that fill shared memory with 32, with 4 and with no units
CASES = [(2, 3, 5, 40), (2, 7, 40, 130), (1, 256, 36, 33), (1, 2000, 6, 50), (1, 9000, 3, 40)]


def run(case: tuple[int, ...], dtype: torch.dtype, backend: str) -> list[Tensor]:
    variables, categories, units, batch = case
    torch.manual_seed(0)
    codes = torch.randint(-1, categories, (variables, batch)).int()
    table, values = torch.randn(variables, categories, units), torch.randn(variables, units, batch)
    with use_backend(backend):
        return [leaf_gather(table.to(dtype), codes), leaf_histogram(codes, values.to(dtype), categories)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(
    case: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: nothing is computed but sums in the order of the batch."""
    expected = run(case, dtype, "reference")
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        assert all(torch.equal(p, q) for p, q in zip(run(case, dtype, "cuda_emu"), expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, 2 * len(CASES))
