"""Bytes under an adaptive model of order k, coded by a range coder, step by step.

A byte is eight decisions, from its highest bit on. A decision has the context of the last k bytes and of the bits
before it in its byte, and a probability of a one that starts at a half and moves to what is decided by 2 / (2 n + 3) of
the way, where n is how often it was met, at most 127: the estimate of Krichevsky and Trofimov, which then forgets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .program_code import BITS, Bad, RangeReader, write_alone

MOST_SEEN = 127
FLOOR = 32  # of 65536: no probability is smaller
ONE_BITS = 11  # what a decision can cost, at that floor


def context(before: int, order: int) -> int:
    """Which of the models serves after these bytes, the latest in the lowest bits; from order 2 on by a hash."""
    if order < 2:
        return before & 255 if order else 0
    return ((before & ((1 << 8 * order) - 1)) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 52


def walk(order: int, n: int, decide: Callable[[int, int, int], int]) -> None:
    """``decide(width of a one, of 2**24; place; the bits before, after a leading one)`` for eight bits of n bytes."""
    table: dict[tuple[int, int], tuple[int, int]] = {}
    before = 0
    for place in range(n):
        node, model = 1, context(before, order)
        while node < 256:
            p, seen = table.get((model, node), (32768, 0))
            one = decide(min(max(p, FLOOR), 65536 - FLOOR) << 8, place, node)
            step = 2 * (65535 - p if one else p) // (2 * seen + 3)
            table[model, node] = (p + step if one else p - step, min(seen + 1, MOST_SEEN))
            node = 2 * node + one
        before = (before << 8 | node & 255) & (1 << 64) - 1


def capacity(n: int) -> int:
    """Bytes that the stream of n bytes cannot exceed."""
    return ONE_BITS * n + 8


def encode(data: bytes, order: int) -> bytes:
    symbols: list[tuple[int, int]] = []

    def decide(width: int, place: int, node: int) -> int:
        one = data[place] >> (8 - node.bit_length()) & 1
        symbols.append((0, width) if one else (width, (1 << BITS) - width))
        return one

    walk(order, len(data), decide)
    return write_alone([symbols])


def decode(stream: bytes, n: int, order: int) -> bytes:
    """Raises ``Bad`` for a stream that :func:`encode` does not make."""
    reader, found = RangeReader(stream), bytearray(n)

    def decide(width: int, place: int, node: int) -> int:
        one = 1 - reader.pop(0, torch.tensor([0, width, 1 << BITS]).numpy())
        found[place] = (2 * node + one) & 255
        return one

    walk(order, n, decide)
    reader.finish()
    return bytes(found)


def adaptive_encode(data: Tensor, each: int, order: int) -> tuple[Tensor, Tensor]:
    """data (N,) uint8 -> payload (chunks, capacity) uint8 and the bytes in use of each, (chunks) int64."""
    plain, n = data.cpu().numpy().tobytes(), len(data)
    chunks = -(-n // each)
    payload = torch.zeros(chunks, capacity(min(each, n)), dtype=torch.uint8)
    sizes = torch.zeros(chunks, dtype=torch.int64)
    for chunk in range(chunks):
        stream = encode(plain[chunk * each : (chunk + 1) * each], order)
        payload[chunk, : len(stream)] = torch.tensor(list(stream), dtype=torch.uint8)
        sizes[chunk] = len(stream)
    return payload.to(data.device), sizes.to(data.device)


def adaptive_decode(payload: Tensor, offsets: Tensor, starts: Tensor, order: int, n: int) -> tuple[Tensor, Tensor]:
    """payload uint8, of which chunk c has [offsets[c], offsets[c + 1]) and gives bytes [starts[c], starts[c + 1])
    -> data (n,) uint8, and of each chunk what is wrong with it, (chunks) int64."""
    data, damage = torch.zeros(n, dtype=torch.uint8), torch.zeros(len(starts) - 1, dtype=torch.int64)
    stream, ends, at = payload.cpu().numpy().tobytes(), offsets.tolist(), starts.tolist()
    for chunk in range(len(damage)):
        try:
            found = decode(stream[ends[chunk] : ends[chunk + 1]], at[chunk + 1] - at[chunk], order)
            data[at[chunk] : at[chunk + 1]] = torch.tensor(list(found), dtype=torch.uint8)
        except Bad as bad:
            damage[chunk] = bad.args[0]
    return data.to(payload.device), damage.to(payload.device)
