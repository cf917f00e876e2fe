"""Random numbers that public torch functions draw without a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def standard_gamma(shape: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws from Gamma(shape, rate 1), one for each entry of ``shape``; differentiable in ``shape``."""
    tiny = torch.finfo(shape.dtype).tiny  # as torch.distributions: a draw that underflows is not zero
    return torch._standard_gamma(shape, generator=generator).clamp(min=tiny)
