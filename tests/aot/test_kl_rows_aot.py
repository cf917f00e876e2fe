"""The Triton kernels of KL divergences of rows compiled for real GPUs, without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import backends
from tests.aot.test_power_norm_aot import Kernels, compiled, stack_bytes  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        (90, torch.float32),
        pytest.param(80, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(100, torch.float64, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kernels_compile_without_spilling(
    compiled: Callable[..., Kernels],  # noqa: F811
    tmp_path: Path,
    arch: int,
    dtype: torch.dtype,
) -> None:
    from probkernels.triton_kernels import kl_rows as kernels

    logits = torch.empty(512, 10_000, dtype=dtype)
    value = torch.empty(512, dtype=torch.promote_types(dtype, torch.float32))
    rows = value, value.double(), value.double()
    found = compiled(arch, kernels.kl_rows, logits, logits, *rows)
    found += compiled(arch, kernels.kl_rows_bwd, logits, logits, *rows, *rows, logits, logits)
    assert [kernel.metadata.name for kernel in found] == ["_fwd", "_bwd"]
    for kernel in found:
        assert stack_bytes(kernel, tmp_path) == 0, f"{kernel.metadata.name} spills registers"
        assert kernel.metadata.shared <= 48 << 10
