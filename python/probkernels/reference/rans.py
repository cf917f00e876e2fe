"""Entropy coding of rows of symbols by rANS, step by step.

A row of N symbols has L = min(8, max(1, N // 256)) states of 64 bits, which start at 2**32. Symbol i uses state i mod
L. Encoding goes from the last symbol to the first. Let a symbol have the counts [below, above) of 2**precision and f =
above - below. If the state is f * 2**(64 - precision) or more, it first emits its low 32 bits as a word. Then it
becomes floor(state / f) * 2**precision + state mod f + below. The stream is the states, then the words from last to
first, all little-endian.
"""

from __future__ import annotations

import bisect

import torch
from torch import Tensor

from .._core.formats.streams import LOWER

MOST_STATES = 8


def states_of(n: int) -> int:
    """Number of states of a row of n symbols."""
    return min(MOST_STATES, max(1, n // 256))


def capacity(n: int, precision: int) -> int:
    """Upper bound on the bytes of a row's stream: ``precision`` bits for each symbol, and a state and a word for each
    state."""
    return -(-n * precision // 32) * 4 + 12 * states_of(n)


def encode_row(symbols: list[int], counts: list[list[int]], precision: int) -> bytes | None:
    """The stream of a row, None if a symbol has no width. ``counts`` has one list for all symbols, or one for each."""
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
    """The symbols and the damage: 1 ends early, 2 wrong state, 3 words left over, 4 counts that do not rise, 5 an index
    without a distribution."""
    found: list[int] = []
    lanes = states_of(n)
    if len(stream) < 8 * lanes:
        return found, 1
    states = [int.from_bytes(stream[8 * g : 8 * g + 8], "little") for g in range(lanes)]
    if min(states) < LOWER:
        return found, 2
    body = stream[8 * lanes :]
    words = [int.from_bytes(body[at : at + 4], "little") for at in range(0, len(body) - 3, 4)][::-1]
    for i in range(n):
        lane = i % lanes
        one, states[lane], wrong = pop_row(states[lane], words, 1, [counts[i % len(counts)]], precision)
        if wrong:
            return found, wrong
        found += one
    return found, 2 if any(state != LOWER for state in states) else 3 if words or len(body) % 4 else 0


def push_row(symbols: list[int], counts: list[list[int]], state: int, precision: int) -> tuple[list[int], int] | None:
    """The words that a state emits for symbols from the last to the first, and the new state. None if a symbol has no
    width."""
    words: list[int] = []
    for i in reversed(range(len(symbols))):
        c, x = counts[i % len(counts)], symbols[i]
        if not 0 <= x < len(c) - 1 or not 0 <= c[x] < c[x + 1] <= 1 << precision:
            return None
        f = c[x + 1] - c[x]
        if state >= f << (64 - precision):
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // f << precision) + state % f + c[x]
    return words, state


def pop_row(
    state: int, words: list[int], n: int, counts: list[list[int]], precision: int
) -> tuple[list[int], int, int]:
    """n symbols, the new state and the damage. Used words are removed from the end of the list."""
    found: list[int] = []
    for i in range(n):
        c, slot = counts[i % len(counts)], state & ((1 << precision) - 1)
        if not c:
            return found, state, 5
        x = bisect.bisect_right(c, slot, 1, len(c) - 1) - 1
        if not 0 <= c[x] <= slot < c[x + 1] <= 1 << precision:
            return found, state, 4
        state = (c[x + 1] - c[x]) * (state >> precision) + slot - c[x]
        if state < LOWER:
            if not words:
                return found, state, 1
            state = state << 32 | words.pop()
        found.append(x)
    return found, state, 0


def lists(cdf: Tensor, index: Tensor | None, row: int) -> list[list[int]]:
    """The counts of a row's symbols: one list for all symbols, or one for each. Empty where an index has no
    distribution."""
    if index is not None:
        table = cdf.tolist()
        return [table[t] if 0 <= t < len(table) else [] for t in index[row].tolist()]
    here = cdf[row] if cdf.dim() == 3 else cdf
    return here.reshape(-1, cdf.shape[-1]).tolist()


def bits_of(state: int) -> int:
    """The int64 with the bits of an unsigned 64-bit state."""
    return state - (1 << 64) if state >> 63 else state


def quantize_cdf(pmf: Tensor, precision: int) -> Tensor:
    """pmf (R, K) -> cumulative counts (R, K + 1) int32, at least 1 for each symbol. The first entry is -1 if a row is
    not probabilities. Sums of up to 2**23 whole numbers <= 2**30 are exact in doubles, in any order."""
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


def rans_encode(symbols: Tensor, cdf: Tensor, index: Tensor | None, precision: int) -> tuple[Tensor, Tensor]:
    """symbols (B, N) int32, cdf int32 (K + 1), (N, K + 1) or (B, N, K + 1), or a table (T, K + 1) with index (B, N)
    int32 -> payload (B, capacity) uint8 and the bytes used in each row, (B) int64. They are -1 for a row with a symbol
    without width."""
    rows, n = symbols.shape
    payload = torch.zeros(rows, capacity(n, precision), dtype=torch.uint8)
    sizes = torch.full((rows,), -1)
    for row in range(rows):
        stream = encode_row(symbols[row].tolist(), lists(cdf, index, row), precision)
        if stream is not None:
            payload[row, : len(stream)] = torch.tensor(list(stream), dtype=torch.uint8)
            sizes[row] = len(stream)
    return payload.to(symbols.device), sizes.to(symbols.device)


def _counts(pmf: Tensor, precision: int) -> Tensor:
    """The output of quantize_cdf for pmf (..., K). -1 everywhere if they are not probabilities."""
    counts = quantize_cdf(pmf.reshape(-1, pmf.shape[-1]), precision).view(*pmf.shape[:-1], pmf.shape[-1] + 1)
    return torch.where(counts[..., :1] < 0, -1, counts)


def rans_encode_pmf(symbols: Tensor, pmf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Like rans_encode, with the counts of pmf (N, K) or (B, N, K)."""
    return rans_encode(symbols, _counts(pmf, precision), None, precision)


def rans_decode(
    payload: Tensor, offsets: Tensor, cdf: Tensor, index: Tensor | None, n: int, precision: int
) -> tuple[Tensor, Tensor]:
    """payload uint8 -> symbols (B, n) int32 and the damage of each row, (B) int64. Row b is payload[offsets[b] :
    offsets[b + 1]]."""
    rows, stream, ends = len(offsets) - 1, payload.cpu().numpy().tobytes(), offsets.tolist()
    symbols = torch.zeros(rows, n, dtype=torch.int32)
    damage = torch.zeros(rows, dtype=torch.int64)
    for row in range(rows):
        found, damage[row] = decode_row(stream[ends[row] : ends[row + 1]], n, lists(cdf, index, row), precision)
        symbols[row, : len(found)] = torch.tensor(found, dtype=torch.int32)
    return symbols.to(payload.device), damage.to(payload.device)


def rans_decode_pmf(payload: Tensor, offsets: Tensor, pmf: Tensor, n: int, precision: int) -> tuple[Tensor, Tensor]:
    """Like rans_decode, with the counts of pmf (N, K) or (B, N, K)."""
    return rans_decode(payload, offsets, _counts(pmf, precision), None, n, precision)


def rans_push(
    symbols: Tensor, cdf: Tensor, index: Tensor | None, states: Tensor, precision: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pushes symbols (B, N) on states (B), unsigned 64-bit stored in int64 -> words (B, N) int32 in the order they were
    emitted, padded with zeros, the number of words (B) int64 (-1 as in rans_encode), and new states."""
    rows, n = symbols.shape
    words, sizes, after = torch.zeros(rows, n, dtype=torch.int64), torch.full((rows,), -1), states.cpu().clone()
    for row in range(rows):
        state = int(after[row]) % (1 << 64)
        pushed = push_row(symbols[row].tolist(), lists(cdf, index, row), state, precision)
        if pushed is not None:
            words[row, : len(pushed[0])] = torch.tensor(pushed[0], dtype=torch.int64)
            sizes[row], after[row] = len(pushed[0]), bits_of(pushed[1])
    return words.to(symbols.device).int(), sizes.to(symbols.device), after.to(symbols.device)


def rans_pop(
    states: Tensor, words: Tensor, sizes: Tensor, cdf: Tensor, index: Tensor | None, n: int, precision: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pops n symbols from states (B) and from the end of the first ``sizes`` of words (B, R) int32 -> symbols (B, n)
    int32, the damage of each row, new states and new sizes."""
    symbols = torch.zeros(len(states), n, dtype=torch.int32)
    damage, after, left = torch.zeros(len(states), dtype=torch.int64), states.cpu().clone(), sizes.cpu().clone()
    for row, size in enumerate(sizes.tolist()):
        stack = [word % (1 << 32) for word in words[row, :size].tolist()]
        state = int(after[row]) % (1 << 64)
        found, state, damage[row] = pop_row(state, stack, n, lists(cdf, index, row), precision)
        symbols[row, : len(found)] = torch.tensor(found, dtype=torch.int32)
        after[row], left[row] = bits_of(state), len(stack)
    device = states.device
    return symbols.to(device), damage.to(device), after.to(device), left.to(device)
