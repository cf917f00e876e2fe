"""The Triton kernels of the pairwise softmax compiled for real GPUs, without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import backends
from tests.aot.test_power_norm_aot import Kernels, compiled, stack_bytes  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")


@pytest.mark.parametrize(
    ("arch", "dtype", "features"),
    [
        (90, torch.float32, 512),
        pytest.param(80, torch.float32, 128, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, 64, marks=pytest.mark.slow),
        pytest.param(100, torch.float32, 512, marks=pytest.mark.slow),
        pytest.param(80, torch.float64, 512, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kernels_compile_without_spilling(
    compiled: Callable[..., Kernels],  # noqa: F811
    tmp_path: Path,
    arch: int,
    dtype: torch.dtype,
    features: int,
) -> None:
    from probkernels.triton_kernels import pairwise_softmax as kernels

    q, grads, half = (torch.empty(size, dtype=dtype) for size in ((5000, features), (5000, 10), (5000,)))
    labels, bounds = torch.zeros(5000, dtype=torch.int64), torch.zeros(11, dtype=torch.int64)
    found = compiled(arch, kernels.pairwise_softmax, q, half, bounds, grads)
    found += compiled(arch, kernels.pairwise_softmax_bwd, q, half, labels, grads, half, half, q)
    assert [kernel.metadata.name for kernel in found] == ["_fwd", "_bwd"]
    for kernel in found:
        assert stack_bytes(kernel, tmp_path) == 0, f"{kernel.metadata.name} spills registers"
        assert kernel.metadata.shared <= 48 << 10
