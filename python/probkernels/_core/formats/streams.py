"""Streams of coded rows: the initial state of a coder, and how streams are packed one after another."""

from __future__ import annotations

import torch
from torch import Tensor

LOWER = 1 << 32  # where a state of 64 bits begins; below it a word of 32 bits is read


def packed(payload: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Packs rows (N, capacity) uint8, of which the first ``sizes`` (N) bytes are used, into streams (B) and offsets (N
    + 1)."""
    streams = torch.cat([payload[:0, 0], *(row[:size] for row, size in zip(payload, sizes.tolist(), strict=True))])
    return streams, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
