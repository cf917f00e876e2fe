"""A 64-bit checksum of the frozen entries of a weight: those that are not selected."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import digests
from ..ops import Selection
from .slots import whole


@torch.no_grad()
def frozen_checksum(weight: Tensor, selection: Selection) -> str:
    """Sixteen hexadecimal digits over dtype, shape and unselected entries; the same before and after training."""
    rest = whole(weight).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    zeros = torch.zeros((), dtype=rest.dtype).expand(selection.count)
    selection.to("cpu").scatter_(rest, zeros.contiguous())
    return digest(rest)


@torch.no_grad()
def digest(t: Tensor) -> str:
    """Sixteen hexadecimal digits over dtype, shape and all entries."""
    return digests.of_bytes(f"{t.dtype}{tuple(t.shape)}".encode(), digests.raw(t), size=8).hex()
