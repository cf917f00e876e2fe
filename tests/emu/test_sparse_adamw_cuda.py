"""The CUDA kernel of sparse AdamW on the emulator: many weights, chunks and blocks of ranks, in every order."""

from __future__ import annotations

import os

import pytest
import torch
from probkernels import use_backend
from probkernels.ops import Selection, sparse_adamw_
from torch import Tensor

from tests import backends
from tests.emu.test_emulator import ORDERS, sanitized
from tests.tolerances import ELEMENTWISE, assert_close

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SANITIZED = "PK_EMULATOR" in os.environ  # the slow run, in which one order is enough
CHUNK = 1024  # entries of a block

# name -> masks. Chunks that end inside and at the end of a weight; more weights than one upload carries; a bitmap whose
# ranks take two rounds of search, with an empty stretch of several rounds of words in it.
CASES = {
    "chunks": [
        torch.arange(n).fmod(every) == 0 for n, every in ((CHUNK, 1), (CHUNK + 1, 1), (5 * CHUNK, 3), (9000, 40))
    ],
    "many": [torch.arange(40 + k).fmod(3 + k % 2 * 30) == 0 for k in range(70)],
    "ranks": [(torch.arange(160_000) - 30_000).abs().fmod(7) + ((torch.arange(160_000) - 80_000).abs() < 35_000) == 0],
}
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]


def run(masks: list[Tensor], backend: str, bits: int) -> list[Tensor]:
    """Everything that two steps change."""
    torch.manual_seed(0)
    weights = [torch.randn(mask.shape).to(DTYPES[k % 4]) for k, mask in enumerate(masks)]
    wides = [torch.float64 if w.dtype is torch.float64 else torch.float32 for w in weights]
    selections = [Selection.from_mask(mask) for mask in masks]
    grads = [
        torch.randn(mask.shape if k % 3 else s.count).to(wides[k])
        for k, (mask, s) in enumerate(zip(masks, selections, strict=True))
    ]
    state = [
        [torch.zeros(s.count, dtype=torch.uint8 if bits == 8 else d) for s, d in zip(selections, wides, strict=True)]
        for _ in range(2)
    ]
    scales = [
        [torch.zeros(-(-s.count // 256), dtype=d) for s, d in zip(selections, wides, strict=True)] for _ in range(2)
    ]
    named = dict(zip(("m_scale", "v_scale"), scales, strict=True)) if bits == 8 else {}
    values = [
        w[mask].to(d) if k % 2 else None for k, (w, mask, d) in enumerate(zip(weights, masks, wides, strict=True))
    ]
    with use_backend(backend):
        for step in (1, 2):
            sparse_adamw_(weights, selections, grads, *state, step, values=values, lr=0.01, **named)
    return [*weights, *state[0], *state[1], *scales[0], *scales[1], *(v for v in values if v is not None)]


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_the_reference_in_every_order(name: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, results = CASES[name], []
    for order in ORDERS[:1] if SANITIZED else (*ORDERS, ORDERS[0]):
        monkeypatch.setenv("CUEMU_ORDER", order)
        results.append(run(masks, "cuda_emu", bits))
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))
    for got, expected in zip(results[0], run(masks, "reference", bits), strict=True):
        if got.dtype is torch.uint8:
            assert (got.int() - expected.int()).abs().max() <= 1
        else:
            assert_close(got, expected, got.dtype, ELEMENTWISE)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="this is the run under the sanitizers")
def test_sanitizers_find_nothing() -> None:
    sanitized(__file__, 2 * len(CASES))
