"""The Triton kernels of sum layers compiled for real GPUs, without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import backends
from tests.aot.test_power_norm_aot import Kernels, compiled, stack_bytes  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")


@pytest.mark.parametrize(
    ("arch", "dtype", "outs", "ins"),
    [
        (90, torch.float32, 64, 64),
        pytest.param(80, torch.float32, 16, 16, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, 64, 64, marks=pytest.mark.slow),
        pytest.param(100, torch.float32, 1, 300, marks=pytest.mark.slow),
        pytest.param(80, torch.float64, 64, 64, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, 16, 16, marks=pytest.mark.slow),
        pytest.param(100, torch.float64, 64, 64, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kernels_compile_without_spilling(
    compiled: Callable[..., Kernels],  # noqa: F811
    tmp_path: Path,
    arch: int,
    dtype: torch.dtype,
    outs: int,
    ins: int,
) -> None:
    from probkernels.triton_kernels import sum_layer as kernels

    x, weights, y = (torch.empty(shape, dtype=dtype) for shape in ((8, ins, 512), (8, outs, ins), (8, outs, 512)))
    found = compiled(arch, kernels.sum_layer, x, weights, y)
    found += compiled(arch, kernels.sum_layer_bwd, x, weights, y, y, x, weights)
    assert [kernel.metadata.name for kernel in found] == ["_fwd", "_grad_x", "_grad_weights"]
    for kernel in found:
        assert stack_bytes(kernel, tmp_path) == 0, f"{kernel.metadata.name} spills registers"
        assert kernel.metadata.shared <= 96 << 10
