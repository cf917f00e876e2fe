"""Rice codes of ascending positions: the gap to the previous one, its high part in unary, its low bits as they are.

The two parts are streams of their own, so that both directions are array operations. At density d a position takes
about log2(1 / d) + 1.5 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._core.errors import CorruptStreamError

Bytes = NDArray[np.uint8]
MOST_BITS = 40  # of a gap's low part


def low_bits(count: int, entries: int) -> int:
    """How many low bits code the gaps of ``count`` positions below ``entries`` best."""
    mean = (entries - count) / max(count, 1)
    return min(MOST_BITS, max(0, int(np.floor(np.log2(max(mean * 0.6931, 1.0))))))


def encode(positions: NDArray[np.int64], k: int) -> tuple[Bytes, Bytes]:
    """positions (count), ascending -> streams (unary, low) for ``k`` low bits."""
    gaps = np.diff(positions, prepend=-1) - 1
    high = gaps >> k
    ends = np.cumsum(high + 1) - 1  # where each unary code's final 1 stands
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, dtype=np.uint8)
    unary[ends] = 1
    low = (gaps[:, None] >> np.arange(k)) & 1
    return np.packbits(unary), np.packbits(low.astype(np.uint8))


def decode(unary: Bytes, low: Bytes, count: int, entries: int, k: int) -> NDArray[np.int64]:
    """The inverse of :func:`encode`; every way in which the streams can be wrong is noticed.

    Raises:
        CorruptStreamError: the streams do not code ``count`` ascending positions below ``entries``.
    """
    if not (0 <= k <= MOST_BITS and 0 <= count <= entries) or len(low) != -(-count * k // 8):
        raise CorruptStreamError("positions: sizes do not fit")
    ends = np.flatnonzero(np.unpackbits(unary))
    if len(ends) != count or len(unary) != (int(ends[-1]) // 8 + 1 if count else 0):
        raise CorruptStreamError("positions: the unary stream does not hold as many codes as it should")
    bits = np.unpackbits(low)
    if bits[count * k :].any():
        raise CorruptStreamError("positions: bits after the end")
    gaps = (np.diff(ends, prepend=-1) - 1) << k
    if k:
        gaps += bits[: count * k].reshape(count, k).astype(np.int64) @ (1 << np.arange(k, dtype=np.int64))
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= entries:
        raise CorruptStreamError("positions: outside the weight")
    return positions
