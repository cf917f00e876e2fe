"""The Triton kernel of sums of RBF kernels compiled for real GPUs, without one."""

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
        (90, torch.float32, 24),
        pytest.param(80, torch.float32, 200, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, 24, marks=pytest.mark.slow),
        pytest.param(100, torch.float32, 24, marks=pytest.mark.slow),
        pytest.param(80, torch.float64, 200, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_kernel_compiles_without_spilling(
    compiled: Callable[..., Kernels],  # noqa: F811
    tmp_path: Path,
    arch: int,
    dtype: torch.dtype,
    features: int,
) -> None:
    from probkernels.triton_kernels import rbf_mean as kernels

    shapes = (2, 1024, features + 2), (2, 5000, features + 2), (2, 5000, features + 1), (2, 1024, features + 1)
    (kernel,) = compiled(arch, kernels.rbf_mean, *(torch.empty(shape, dtype=dtype) for shape in shapes))
    assert kernel.metadata.name == "_sums"
    assert stack_bytes(kernel, tmp_path) == 0, "spills registers"
    assert kernel.metadata.shared <= 48 << 10
