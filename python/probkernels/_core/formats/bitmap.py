"""The two encodings of a selection, the selected entries of a weight tensor.

A weight has N entries in row-major order, and ``count`` of them are selected. One encoding is ``index`` (count) int32,
the positions in ascending order. The other is ``words`` (ceil(N/64)) int64, where bit b of word i is set if entry 64 i
+ b is selected and bits past N are 0, with ``ranks`` (ceil(N/512)) int32, the number of selected entries before entry
512 j.
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
    """The number of set bits in each word: words (W) int64 -> (W)."""
    twos = words - (words >> 1 & 0x5555555555555555)
    fours = (twos & 0x3333333333333333) + (twos >> 2 & 0x3333333333333333)
    return (fours + (fours >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56  # bytes added up in the highest


def is_bitmap(words: Tensor, ranks: Tensor, count: int, n: int) -> bool:
    """Whether words and ranks (of the right sizes) are a bitmap that selects ``count`` of n entries."""
    per_block = F.pad(count_bits(words), (0, -words.numel() % (BLOCK // WORD))).view(-1, BLOCK // WORD).sum(1)
    through = per_block.cumsum(0)
    past = words[-1:] >> n % WORD if n % WORD else words[:0]
    return not past.any() and int(per_block.sum()) == count and torch.equal(through - per_block, ranks.long())


def positions(index: Tensor | None, words: Tensor | None, count: int) -> Tensor:
    """Positions of the selected entries, in ascending order -> (count) int64."""
    if index is not None:
        return index.long()
    assert words is not None
    through = unpack(words, WORD * words.numel()).cumsum(0)  # at a set bit: its rank, counted from 1
    return torch.searchsorted(through, torch.arange(1, count + 1, device=words.device))
