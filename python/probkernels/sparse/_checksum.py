"""A 64-bit checksum of what fine-tuning leaves alone: the entries of a weight that are not selected."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..ops import Selection
from ._slots import whole


@torch.no_grad()
def frozen_checksum(weight: Tensor, selection: Selection) -> str:
    """Sixteen hexadecimal digits over dtype, shape and unselected entries; the same before and after training."""
    rest = whole(weight).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    zeros = torch.zeros((), dtype=rest.dtype).expand(selection.count)
    selection.to("cpu").scatter_(rest, zeros.contiguous())
    digest = hashlib.blake2b(f"{rest.dtype}{tuple(rest.shape)}".encode(), digest_size=8)
    digest.update(rest.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
