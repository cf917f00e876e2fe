"""The CUDA kernels of leapfrog on the emulator: parts of a block, with and without damping, in every order."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import leapfrog_adjoint_, leapfrog_step_
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough
CASES = [(1, 1024), (300, 1024), (513, 700)]  # elements, keep


def run(case: tuple[int, int], backend: str) -> list[Tensor]:
    """Two steps forward, two undone, and the cotangents."""
    torch.manual_seed(0)
    n, keep = case
    y, p = ((torch.randn(n, dtype=torch.float64) * 2**36).long() for _ in range(2))
    rest = torch.zeros_like(y) if keep < 1024 else None
    x, seen, along, out, e = torch.randn(5, n).unbind(0)
    bad, found = torch.zeros(1, dtype=torch.int32), []
    with use_backend(backend):
        for undo in (False, False, True, True):
            how = {"first": 0.1, "second": -0.2, "rest": rest, "keep": keep, "undo": undo, "seen": seen}
            leapfrog_step_(y, p, x, bad, alpha=0.9, e=e, **how)
            found += [t.clone() for t in (y, p, x, seen)]
        leapfrog_step_(y, p, x, bad, alpha=0.9, e=e * torch.inf, rest=rest, keep=keep)
        leapfrog_adjoint_(x.nan_to_num(), seen, along, out, alpha=0.9, first=0.1, second=0.2, keep=keep / 1024)
    return [*found, bad, seen, out]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_reference_in_every_order(case: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(case, "reference")
    for order in ORDERS[:1] if SANITIZED else ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        assert all(torch.equal(p, q) for p, q in zip(run(case, "cuda_emu"), expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, len(CASES))
