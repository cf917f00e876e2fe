"""Which entries of a weight tensor are selected, in two encodings.

A weight has N entries in row-major order, of which ``count`` are selected. Either ``index`` (count) int32 lists their
positions in ascending order, or ``words`` (ceil(N/64)) int64 has bit b of word i set where entry 64 i + b is selected,
bits past N being 0, and ``ranks`` (ceil(N/512)) int32 says how many entries are selected before entry 512 j.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WORD, BLOCK = 64, 512  # entries of a word, and of a block with a rank of its own


def pack(mask: Tensor) -> tuple[Tensor, Tensor]:
    """mask (...) bool with N entries -> words (ceil(N/64)) int64, ranks (ceil(N/512)) int32."""
    flat = mask.reshape(-1)
    n = flat.numel()
    flat = F.pad(flat.to(torch.uint8), (0, -n % BLOCK))
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    octets = (flat.view(-1, 8) * weights).sum(1, dtype=torch.uint8)
    words = octets.view(torch.int64)[: -(-n // WORD)]  # least significant byte first
    counts = flat.view(-1, BLOCK).sum(1)
    return words.clone(), (counts.cumsum(0) - counts).to(torch.int32)


def unpack(words: Tensor, n: int) -> Tensor:
    """words (ceil(n/64)) -> mask (n) bool."""
    octets = words.contiguous().view(torch.uint8)
    bits = octets[:, None] >> torch.arange(8, dtype=torch.uint8, device=words.device)
    return (bits & 1).reshape(-1)[:n].bool()


def count_bits(words: Tensor) -> Tensor:
    """How many bits of each word are set: words (W) int64 -> (W)."""
    twos = words - (words >> 1 & 0x5555555555555555)
    fours = (twos & 0x3333333333333333) + (twos >> 2 & 0x3333333333333333)
    return (fours + (fours >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56  # bytes added up in the highest


def is_bitmap(words: Tensor, ranks: Tensor, count: int, n: int) -> bool:
    """Whether words and ranks, of the right sizes, are a bitmap of ``count`` of n entries."""
    per_block = F.pad(count_bits(words), (0, -words.numel() % (BLOCK // WORD))).view(-1, BLOCK // WORD).sum(1)
    through = per_block.cumsum(0)
    past = words[-1:] >> n % WORD if n % WORD else words[:0]
    return not past.any() and int(per_block.sum()) == count and torch.equal(through - per_block, ranks.long())


def positions(index: Tensor | None, words: Tensor | None, count: int) -> Tensor:
    """Of the selected entries, in ascending order -> (count) int64."""
    if index is not None:
        return index.long()
    assert words is not None
    through = unpack(words, WORD * words.numel()).cumsum(0)  # at a set bit: its rank, counted from 1
    return torch.searchsorted(through, torch.arange(1, count + 1, device=words.device))
