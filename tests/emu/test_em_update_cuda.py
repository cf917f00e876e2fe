"""The CUDA kernel of the M-step on the emulator: every shape of a rectangle of threads, in every order of threads."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import em_update_
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import ELEMENTWISE, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough

# N, K, M: many distributions of a block of threads, one of many, columns that do not divide a block, several tiles
CASES = [(70, 5, 1), (3, 700, 1), (4, 100, 3), (9, 4, 16), (2, 30, 70)]


def run(case: tuple[int, ...], dtype: torch.dtype, backend: str) -> Tensor:
    torch.manual_seed(0)
    params, flows, kept = torch.rand(case), torch.rand(case), torch.rand(case[0], case[2])
    params *= params > 0.2
    flows[0] = 0
    params, flows, kept = (t.to(dtype) for t in (params, flows, kept))
    with use_backend(backend):
        em_update_(params, flows, 0.3, 0.5)
        em_update_(params, flows, 0.6, 0.0, kept)
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_the_reference_in_every_order(
    case: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        runs.append(run(case, dtype, "cuda_emu"))
    assert all(torch.equal(runs[0], other) for other in runs[1:])
    assert_close(runs[0], run(case, dtype, "reference"), dtype, ELEMENTWISE)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, 2 * len(CASES))
