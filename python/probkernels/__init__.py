"""probkernels: CUDA, Triton and C++ kernels for probabilistic deep learning, with exact derivatives.

Rooms load when they are first used: ``import probkernels`` costs nothing, not even torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ._core.errors import BackendError, CorruptStreamError, ModelMismatchError

if TYPE_CHECKING:
    from . import (
        amortized,
        blackbox,
        bnn,
        circuits,
        codec,
        diffusion,
        energy,
        inverse,
        kernel_methods,
        local_learning,
        nn,
        ops,
        optim,
        sequence,
        sparse,
        training,
        uncertainty,
    )
    from ._core.backend import use_backend

ROOMS = (
    "amortized", "blackbox", "bnn", "circuits", "codec", "diffusion", "energy", "inverse", "kernel_methods",
    "local_learning", "nn", "ops", "optim", "sequence", "sparse", "training", "uncertainty",
)  # fmt: skip
__version__ = version("probkernels")
__all__ = [
    "BackendError", "CorruptStreamError", "ModelMismatchError", "amortized", "blackbox", "bnn", "circuits", "codec",
    "diffusion", "energy", "inverse", "kernel_methods", "local_learning", "nn", "ops", "optim", "sequence", "sparse",
    "training", "uncertainty", "use_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a room, or ``use_backend``, at its first use."""
    if name in ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "use_backend":
        from ._core.backend import use_backend

        return use_backend
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
