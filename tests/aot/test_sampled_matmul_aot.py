"""The Triton kernels of the sampled products compiled for real GPUs, without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import backends
from tests.aot.test_power_norm_aot import Kernels, compiled, stack_bytes  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")

MATMUL = (8192, 1024, 1, 1024, *(1,) * 12, 0, 0, 0, 1, 1, 1)
CONV = (8, 1024, 1, 128, 1, 32, 32, 1, 32, 32, 1, 3, 3, 1, 1, 1, 0, 1, 1, 1, 1, 1)
MULTIPLIES = {80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma"}


@pytest.mark.parametrize(
    ("arch", "dtype", "sizes"),
    [
        (90, torch.bfloat16, MATMUL),
        (80, torch.float16, CONV),
        (100, torch.float32, MATMUL),
        pytest.param(80, torch.bfloat16, MATMUL, marks=pytest.mark.slow),
        pytest.param(100, torch.bfloat16, MATMUL, marks=pytest.mark.slow),
        pytest.param(90, torch.float32, CONV, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, MATMUL, marks=pytest.mark.slow),
        pytest.param(100, torch.bfloat16, CONV, marks=pytest.mark.slow),
        pytest.param(90, torch.bfloat16, CONV, marks=pytest.mark.slow),
        pytest.param(80, torch.float64, CONV, marks=pytest.mark.slow),
    ],
    ids=lambda v: "conv" if v is CONV else "matmul" if v is MATMUL else str(v),
)
def test_kernels_compile_without_spilling(
    compiled: Callable[..., Kernels],  # noqa: F811
    tmp_path: Path,
    arch: int,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
) -> None:
    from probkernels.triton_kernels import sampled_matmul as kernels

    entries, acc = sizes[1] * 128 * 9, torch.float64 if dtype is torch.float64 else torch.float32
    factors = torch.empty(8192, 1024, dtype=dtype), torch.empty(8192, 1024, dtype=dtype)
    words, ranks = torch.zeros(entries // 64, dtype=torch.int64), torch.zeros(entries // 512, dtype=torch.int32)
    selected, values = (None, words, ranks), torch.empty(99, dtype=acc)
    found = compiled(arch, kernels.sampled_matmul, *factors, selected, values, sizes)
    assert [kernel.metadata.name for kernel in found] == ["_word_ranks", "_product"]
    for kernel in found:
        assert stack_bytes(kernel, tmp_path) == 0, f"{kernel.metadata.name} spills registers"
        assert "popc.b32" in kernel.asm["ptx"], "bits are counted one by one"
    product = found[1]
    assert product.metadata.shared <= 160 << 10
    if dtype.itemsize == 2:
        assert MULTIPLIES[arch] in product.asm["ptx"], "the tensor cores are idle"
