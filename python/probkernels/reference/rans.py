"""Entropy coding of rows of symbols by rANS, step by step.

A row of N symbols has L = min(8, max(1, N // 256)) states of 64 bits, which begin at 2**32; symbol i is on state
i mod L. Encoding goes from the last symbol to the first. With counts [below, above) of 2**precision and f = above -
below, a state of f * 2**(64 - precision) or more gives away its low 32 bits first, then becomes
floor(state / f) * 2**precision + state mod f + below. The stream is the states, then the words from the last to the
first, all little-endian.
"""

from __future__ import annotations

import bisect

import torch
from torch import Tensor

LOWER = 1 << 32
MOST_STATES = 8


def states_of(n: int) -> int:
    """How many states a row of n symbols has."""
    return min(MOST_STATES, max(1, n // 256))


def capacity(n: int, precision: int) -> int:
    """Bytes that a row's stream cannot exceed: ``precision`` bits a symbol, and of each state itself and a word."""
    return -(-n * precision // 32) * 4 + 12 * states_of(n)


def encode_row(symbols: list[int], counts: list[list[int]], precision: int) -> bytes | None:
    """The stream; None if a symbol has no width. ``counts`` has one list, or one for each symbol."""
    states, words = [LOWER] * states_of(len(symbols)), b""
    for i in reversed(range(len(symbols))):
        c, x, lane = counts[i % len(counts)], symbols[i], i % len(states)
        if not 0 <= x < len(c) - 1 or not 0 <= c[x] < c[x + 1] <= 1 << precision:
            return None
        below, f = c[x], c[x + 1] - c[x]
        if states[lane] >= f << (64 - precision):
            words = (states[lane] & 0xFFFFFFFF).to_bytes(4, "little") + words
            states[lane] >>= 32
        states[lane] = (states[lane] // f << precision) + states[lane] % f + below
    return b"".join(state.to_bytes(8, "little") for state in states) + words


def decode_row(stream: bytes, n: int, counts: list[list[int]], precision: int) -> tuple[list[int], int]:
    """The symbols, and what is wrong: 1 ends early, 2 a wrong state, 3 words left over, 4 counts that do not rise."""
    found: list[int] = []
    lanes = states_of(n)
    if len(stream) < 8 * lanes:
        return found, 1
    states = [int.from_bytes(stream[8 * g : 8 * g + 8], "little") for g in range(lanes)]
    if min(states) < LOWER:
        return found, 2
    at = 8 * lanes
    for i in range(n):
        c, lane = counts[i % len(counts)], i % lanes
        slot = states[lane] & ((1 << precision) - 1)
        x = bisect.bisect_right(c, slot, 1, len(c) - 1) - 1
        if not 0 <= c[x] <= slot < c[x + 1] <= 1 << precision:
            return found, 4
        states[lane] = (c[x + 1] - c[x]) * (states[lane] >> precision) + slot - c[x]
        if states[lane] < LOWER:
            if len(stream) - at < 4:
                return found, 1
            states[lane] = states[lane] << 32 | int.from_bytes(stream[at : at + 4], "little")
            at += 4
        found.append(x)
    return found, 2 if any(state != LOWER for state in states) else 3 if at < len(stream) else 0


def lists(cdf: Tensor, row: int) -> list[list[int]]:
    """The counts of a row's symbols: one list for all, or one for each."""
    here = cdf[row] if cdf.dim() == 3 else cdf
    return here.reshape(-1, cdf.shape[-1]).tolist()


def quantize_cdf(pmf: Tensor, precision: int) -> Tensor:
    """pmf (R, K) -> cumulative counts (R, K + 1) int32, each symbol with 1 at least; -1 first if they are none. Whole
    numbers in doubles: their sums are exact in any order."""
    most = pmf.amax(1, keepdim=True).double()
    scale = 2.0**30 / most
    sound = (pmf >= 0).all(1) & pmf.isfinite().all(1) & (most > 0).squeeze(1) & (scale < 1e300).squeeze(1)
    whole = torch.where(sound[:, None], pmf.double() * scale, 1.0).trunc()
    share = ((1 << precision) - pmf.shape[1]) / whole.sum(1, keepdim=True)
    counts = (whole * share).long() + 1
    left = (1 << precision) - counts.sum(1, keepdim=True)
    counts.scatter_add_(1, pmf.argmax(1, keepdim=True), left)
    found = torch.nn.functional.pad(counts.cumsum(1), (1, 0)).int()
    found[:, 0] -= (~sound).int()
    return found


def rans_encode(symbols: Tensor, cdf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """symbols (B, N) int32, cdf (K + 1), (N, K + 1) or (B, N, K + 1) int32 -> payload (B, capacity) uint8, and the
    bytes in use of each, (B) int64: -1 for a row with a symbol that has no width."""
    rows, n = symbols.shape
    payload = torch.zeros(rows, capacity(n, precision), dtype=torch.uint8)
    sizes = torch.full((rows,), -1)
    for row in range(rows):
        stream = encode_row(symbols[row].tolist(), lists(cdf, row), precision)
        if stream is not None:
            payload[row, : len(stream)] = torch.tensor(list(stream), dtype=torch.uint8)
            sizes[row] = len(stream)
    return payload.to(symbols.device), sizes.to(symbols.device)


def rans_decode(payload: Tensor, offsets: Tensor, cdf: Tensor, n: int, precision: int) -> tuple[Tensor, Tensor]:
    """payload uint8, of which row b has [offsets[b], offsets[b + 1]) -> symbols (B, n) int32, and what is wrong with
    each row, (B) int64."""
    rows, stream, ends = len(offsets) - 1, payload.cpu().numpy().tobytes(), offsets.tolist()
    symbols = torch.zeros(rows, n, dtype=torch.int32)
    damage = torch.zeros(rows, dtype=torch.int64)
    for row in range(rows):
        found, damage[row] = decode_row(stream[ends[row] : ends[row + 1]], n, lists(cdf, row), precision)
        symbols[row, : len(found)] = torch.tensor(found, dtype=torch.int32)
    return symbols.to(payload.device), damage.to(payload.device)
