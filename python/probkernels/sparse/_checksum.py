"""A 64-bit checksum of what fine-tuning leaves alone: the entries of a weight that are not selected."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import digests
from ..ops import Selection
from .slots import BITS, sharded, whole


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


@torch.no_grad()
def sketch(weight: Tensor) -> tuple[int, int]:
    """Two sums over the bits of a weight, or of this process's shard, computed on its device.

    The first sees every change of one entry, the second that entries changed places.
    """
    held = weight if sharded(weight) is None else sharded(weight).to_local()
    bits = held.detach().contiguous().view(-1).view(BITS[weight.element_size()])
    sums = torch.stack([bits.sum(dtype=torch.int64), (bits[1:] ^ bits[:-1]).sum(dtype=torch.int64)])
    return tuple(sums.tolist())
