"""Loads the native module, which does not use torch, and converts Python values to its arguments."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

DTYPE_CODE = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # csrc/include/pk/dtype.h

module: ModuleType | None
problem: str | None
try:
    from probkernels import _C as module  # torch is imported first, so that both share one OpenMP runtime
except ImportError as error:
    module = None
    problem = f"the native module did not load ({error}); reinstall with 'pip install --no-cache-dir probkernels'"
else:
    problem = None


def build_info() -> dict[str, object]:
    """How the native module was built: version, compiler, OpenMP, CUDA architectures (None without CUDA)."""
    return module.build_info() if module is not None else {}


def accumulation_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of sums and running state for input ``x``: float64 for float64, else float32."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def accumulating(x: torch.Tensor, *tensors: torch.Tensor | None) -> list[Any]:
    """Converts per-feature tensors to the dtype in which kernels accumulate for input ``x``."""
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    return [t if t is None or t.dtype is dtype else t.to(dtype) for t in tensors]
