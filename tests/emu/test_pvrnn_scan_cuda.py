"""The CUDA kernels of PV-RNN scans on the emulator, in every order of threads; weights in shared memory and not."""

from __future__ import annotations

import pytest
import torch
from probkernels import use_backend

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.ops.test_pvrnn_scan import CPU, F64, run
from tests.tolerances import SUM, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))

CASES = [(2, 3, 5, 2, 3), (1, 2, 80, 1, 1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(case: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = torch.arange(case[0]) + 1
    with use_backend("reference"):
        expected = run(CPU, F64, case, lengths=lengths)
    for order in ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        with use_backend("cuda_emu"):
            got = run(CPU, F64, case, lengths=lengths)
        for name, value in expected.items():
            scale = max(1.0, value.abs().max().item())
            assert_close(got[name] / scale, value / scale, F64, SUM, terms=100_000)


@pytest.mark.slow
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(CASES))
