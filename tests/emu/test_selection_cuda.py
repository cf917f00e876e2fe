"""The CUDA kernels of selections and of selecting by magnitude on the emulator, in every order of threads."""

from __future__ import annotations

import pytest
import torch
from probkernels import use_backend
from probkernels.ops.magnitude_select import HISTOGRAM, SELECT
from probkernels.ops.selection import GATHER, INDEX, SCATTER
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))


def run(w: Tensor, threshold: float) -> list[Tensor]:
    """Everything that the kernels make of w."""
    words, ranks = SELECT.call(w, threshold, False)
    count = int((w.abs() < threshold).sum())
    index = INDEX.call(words, ranks, count)
    results = [words, ranks, index, HISTOGRAM.call(w, 0, 0)]
    for encoding in ((index, None, None), (None, words, ranks)):
        values, target = GATHER.call(w, *encoding, count), torch.zeros_like(w)
        SCATTER.call(target, values, *encoding)
        results += [values, target]
    return results


# One warp with a tail, several blocks of threads, and several tiles of the scan of 4096 counts.
@pytest.mark.parametrize(("n", "threshold"), [(700, 0.8), (9 * 4096 + 13, 0.06), (512 * 4100 + 1, 1e-4)], ids=str)
def test_every_order_gives_the_reference(n: int, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.randn(n, generator=torch.Generator().manual_seed(n))
    with use_backend("reference"):
        expected = run(w, threshold)
    for order in ORDERS:
        monkeypatch.setenv("CUEMU_ORDER", order)
        with use_backend("cuda_emu"):
            got = run(w, threshold)
        assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))
