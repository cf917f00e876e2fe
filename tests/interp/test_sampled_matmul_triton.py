"""The Triton kernels of the sampled products in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import pytest
import torch

from tests.emu.test_sampled_matmul_cuda import CASES, Case, check, matmul, run
from tests.interp.test_power_norm_triton import inside, interpret, outside

pytest.importorskip("triton", reason="triton is not installed")

MORE = [
    matmul(700, 40, 24, 0.3, False, torch.bfloat16),  # the tokens are split
    matmul(130, 150, 140, 0.1, False, torch.float16),  # several tiles either way
    matmul(20, 300, 20, 0.1, True, torch.float64),  # more than one region of tiles
]


@outside
def test_kernels_in_the_interpreter() -> None:
    assert f"{len(CASES) + len(MORE) + 2} passed" in interpret(__file__)


@inside
@pytest.mark.parametrize("case", CASES + MORE, ids=lambda c: f"{c.weight}-{str(c.dtype)[6:]}")
def test_kernels_equal_the_reference(case: Case) -> None:
    check(case, run(case, "triton_interp"))


@inside
def test_every_run_gives_the_same_bits() -> None:
    assert torch.equal(run(MORE[0], "triton_interp"), run(MORE[0], "triton_interp"))


@inside
def test_word_ranks_and_a_list_as_a_bitmap() -> None:
    from probkernels._core.formats.bitmap import pack
    from probkernels.triton_kernels import sampled_matmul as kernels

    mask = torch.rand(5000) < 0.3
    words, ranks = pack(mask)
    got = kernels.bitmap(mask.nonzero()[:, 0].int(), 5000)
    assert torch.equal(got[0], words)
    assert torch.equal(got[1], ranks)
    per_word = torch.nn.functional.pad(mask, (0, -5000 % 64)).view(-1, 32).sum(1)
    assert torch.equal(kernels.word_ranks(words, ranks).long(), per_word.cumsum(0) - per_word)
