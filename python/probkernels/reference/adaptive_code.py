"""Codes bytes with an adaptive model of order k and a range coder, step by step.

A byte is eight binary decisions, highest bit first. The context of a decision is the last k bytes and the earlier bits
of its byte. Each context has a probability of a one. It starts at 1/2 and moves towards each decided bit by 2 / (2 n +
3) of the way, where n is how often the context occurred, at most 127. This is the estimate of Krichevsky and Trofimov,
with forgetting once n is at its limit.
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
    """The index of the model for these preceding bytes, the latest in the lowest bits. A hash from order 2 on."""
    if order < 2:
        return before & 255 if order else 0
    return ((before & ((1 << 8 * order) - 1)) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 52


def walk(order: int, n: int, decide: Callable[[int, int, int], int]) -> None:
    """Calls ``decide(width of a one out of 2**24, place, earlier bits after a leading one)`` for the eight bits of each
    of n bytes."""
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
    """Upper bound on the bytes of the stream of n bytes."""
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
    """Decodes a stream. Raises ``Bad`` if :func:`encode` cannot have made it."""
    reader, found = RangeReader(stream), bytearray(n)

    def decide(width: int, place: int, node: int) -> int:
        one = 1 - reader.pop(0, torch.tensor([0, width, 1 << BITS]).numpy())
        found[place] = (2 * node + one) & 255
        return one

    walk(order, n, decide)
    reader.finish()
    return bytes(found)


def adaptive_encode(data: Tensor, each: int, order: int) -> tuple[Tensor, Tensor]:
    """data (N,) uint8 -> payload (chunks, capacity) uint8 and the bytes used in each chunk, (chunks) int64."""
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
    """payload uint8 -> data (n,) uint8 and the damage of each chunk, (chunks) int64. Chunk c is payload[offsets[c] :
    offsets[c + 1]] and holds the bytes starts[c] .. starts[c + 1] - 1."""
    data, damage = torch.zeros(n, dtype=torch.uint8), torch.zeros(len(starts) - 1, dtype=torch.int64)
    stream, ends, at = payload.cpu().numpy().tobytes(), offsets.tolist(), starts.tolist()
    for chunk in range(len(damage)):
        try:
            found = decode(stream[ends[chunk] : ends[chunk + 1]], at[chunk + 1] - at[chunk], order)
            data[at[chunk] : at[chunk + 1]] = torch.tensor(list(found), dtype=torch.uint8)
        except Bad as bad:
            damage[chunk] = bad.args[0]
    return data.to(payload.device), damage.to(payload.device)
