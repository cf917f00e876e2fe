"""Cholesky factors of kernel matrices, with as little jitter as it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.errors import message

JITTER = (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6)  # of the kernel's diagonal, tried in turn; for float64
# float32 has 9 digits fewer: the same steps, times this
FLOAT32_STEPS = 1e5


def factorize(matrix: Tensor, diagonal: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Lower Cholesky factors of symmetric matrices, each with the first jitter that makes it positive definite.

    Args:
        matrix: (..., N, N), float64 or float32.
        diagonal: (...) the number that the jitter is a share of; None for the mean of the diagonal.

    Returns:
        factor (..., N, N); what was added to the diagonal (...), 0 where nothing was needed; and which matrices have
        no factor even so, bool (...). Their factors hold no meaning: the caller raises.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).mean(-1) if diagonal is None else diagonal
    diagonal = diagonal.detach()
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    scale = 1.0 if matrix.dtype == torch.float64 else FLOAT32_STEPS
    steps = scale * torch.tensor(JITTER, dtype=matrix.dtype, device=matrix.device)
    level = torch.zeros(matrix.shape[:-2], dtype=torch.long, device=matrix.device)
    for _ in JITTER:
        jitter = steps[level] * diagonal
        factor, info = torch.linalg.cholesky_ex(matrix + jitter[..., None, None] * eye)
        failed = (info > 0) | ~jitter.isfinite()
        if not failed.any():
            break
        level = (level + failed).clamp(max=len(JITTER) - 1)
    return factor, jitter, failed


def factor_or_raise(op: str, name: str, matrix: Tensor, diagonal: Tensor | None = None, hint: str = "") -> Tensor:
    """The factors (..., N, N) of :func:`factorize`, or a ValueError about the argument ``name``."""
    factor, _, failed = factorize(matrix, diagonal)
    if not failed.any():
        return factor
    got = "NaN or infinity in it" if not matrix.isfinite().all() else "one without a Cholesky factor"
    raise ValueError(message(op, name, "a positive definite kernel matrix", got, hint))
