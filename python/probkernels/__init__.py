"""probkernels: CUDA, Triton and C++ kernels for probabilistic deep learning, with exact derivatives."""

from importlib.metadata import version

from . import circuits, diffusion, nn, ops, optim, sparse
from ._core.backend import use_backend
from ._core.errors import BackendError, CorruptStreamError, ModelMismatchError

__version__ = version("probkernels")
__all__ = [
    "BackendError", "CorruptStreamError", "ModelMismatchError", "circuits", "diffusion", "nn", "ops", "optim", "sparse",
    "use_backend",
]  # fmt: skip
