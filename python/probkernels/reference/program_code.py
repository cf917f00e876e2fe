"""Codes rows of data with a compiled circuit, step by step: the arithmetic named f32-fma-seq-v2, and the coder.

All floats are float32, every operation rounds once as in IEEE 754, sums run in ascending order, and results below 1e-30
become 0. So every machine computes the same bits. This is for tests: it is a thousand times slower than the kernels.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from .._core.formats.instructions import Code
from .._core.formats.streams import LOWER

LEAST = np.float32(1e-30)
BITS = 24
LEAST_RANGE = 1 << 56
Array = np.ndarray


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c with one rounding, for float32 >= 0. The product is exact in float64. The sum is rounded to odd, so the
    final rounding to float32 is that of the exact sum."""
    p, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    s = np.asarray(p + c)
    t = s - p
    error = (p - (s - t)) + (c - t)
    even = s.view(np.int64) & 1 == 0
    odd = np.where(error > 0, np.nextafter(s, np.inf), np.nextafter(s, -np.inf))
    return np.where((error != 0) & even, odd, s).astype(np.float32)


def flush(x: Array) -> Array:
    """x with entries below 1e-30 set to 0."""
    return np.where(x < LEAST, np.float32(0), x)


def rescale(x: Array) -> Array:
    """x times the power of two that brings its largest entry into [1, 2). All ones if x is all zeros."""
    if x.max() == 0:
        return np.ones_like(x)
    exponent = min(int(x.max().view(np.int32)) >> 23, 253)
    return flush(x * np.int32((254 - exponent) << 23).view(np.float32))


def mixture(a: Array) -> Array:
    """Weights a (n) -> whole numbers (n) that sum to 65536."""
    total = np.float32(0)
    for value in a:
        total = np.float32(total + value)
    if not 0 < total < 3e38:
        w = np.full(len(a), 65536 // len(a), np.int64)
    else:
        w = (a * (np.float32(65536) / total)).astype(np.int64)
    w[w.argmax()] += 65536 - w.sum()
    return w


def cumulative(counts: Array) -> Array:
    """Counts below each category (C, ...) out of 2**24 -> the same plus one for each earlier category, and the end, (C
    + 1, ...)."""
    places = np.arange(len(counts)).reshape(-1, *[1] * (counts.ndim - 1))
    return np.concatenate([counts + places, np.full((1, *counts.shape[1:]), 1 << BITS)])


class Model:
    """The tensors of a program as arrays, and the walk of a row through it."""

    def __init__(self, code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, registers: int) -> None:
        self.code = code.cpu().numpy()
        self.weights, self.registers = weights.cpu().numpy(), registers
        flat = tables.cpu().numpy().view(np.uint16).astype(np.int64)
        self.tables = [flat[at : at + c * k].reshape(c, k) for at, c, k, _ in variables.tolist()]

    def walk(self) -> Generator[tuple[int, Array], int, None]:
        """Runs the program for a row of data: yields each variable in coding order with the cumulative counts (C + 1)
        of its values, out of 2**24, and receives the value."""
        r = np.zeros(self.registers, np.float32)
        for op, dst, a, b, n, m, stride, step, more in self.code.tolist():
            if op == Code.CODE:
                below = cumulative(self.tables[m] @ mixture(r[a : a + n]) >> 8)  # (C + 1)
                value = yield m, below
                widths = np.diff(cumulative(256 * self.tables[m]), axis=0)[value]  # (K)
            elif op == Code.LEAF:
                r[dst : dst + n] = widths[stride : stride + n].astype(np.float32) / 256
            elif op == Code.OUTER:
                r[dst : dst + n * m] = flush(np.outer(r[a : a + n], r[b : b + m])).ravel()
            elif op == Code.RESCALE:
                r[dst : dst + n] = rescale(r[dst : dst + n])
            else:
                r[dst : dst + n] = self.vector(r, op, r[dst : dst + n] * np.float32(more), a, b, m, stride, step)

    def vector(self, r: Array, op: int, old: Array, a: int, b: int, m: int, stride: int, step: int) -> Array:
        """The result (n registers) of an instruction that is not CODE. It may be added to ``old``."""
        k = np.arange(len(old))
        if op == Code.FILL:
            return np.ones_like(old)
        if op == Code.MULTIPLY:
            x = r[a + k]
            return old + (x if b < 0 else flush(x * r[b + k]))
        for j in range(m):
            if op == Code.MATVEC:
                old = fma(r[a + j], self.weights[b + j * stride + k * step], old)
            else:
                x = r[a + k * step + j * stride]
                old = old + (x if b < 0 else flush(x * r[b + j]))
        return flush(old) if op == Code.MATVEC else old


class Bad(Exception):
    """A damaged stream. Its argument is the code of the damage: 1 ends early, 2 wrong state, 3 words left over."""


class Reader:
    """Decodes a stream with rANS: a 64-bit state for each lane, and 32-bit words."""

    def __init__(self, stream: bytes, lanes: int) -> None:
        if len(stream) < 8 * lanes:
            raise Bad(1)
        self.states = [int.from_bytes(stream[g * 8 : (g + 1) * 8], "little") for g in range(lanes)]
        if min(self.states) < LOWER:
            raise Bad(2)
        self.rest = stream[8 * lanes :]

    def pop(self, lane: int, below: Array) -> int:
        state = self.states[lane]
        slot = state & ((1 << BITS) - 1)
        value = int(np.searchsorted(below, slot, "right")) - 1
        state = int(below[value + 1] - below[value]) * (state >> BITS) + slot - int(below[value])
        if state < LOWER:
            if len(self.rest) < 4:
                raise Bad(1)
            state = state << 32 | int.from_bytes(self.rest[:4], "little")
            self.rest = self.rest[4:]
        self.states[lane] = state
        return value

    def finish(self) -> None:
        """Raises unless the whole stream was used and every state is the encoder's initial state."""
        if any(state != LOWER for state in self.states):
            raise Bad(2)
        if self.rest:
            raise Bad(3)


def write(symbols: list[list[tuple[int, int]]], lanes: int) -> bytes:
    """The stream of rows of symbols (below, width), with `lanes` rows side by side, coded from the last symbol to the
    first."""
    states = [LOWER] * lanes
    words: list[bytes] = []
    for first in reversed(range(0, len(symbols), lanes)):
        rows = symbols[first : first + lanes]
        for turn in reversed(range(len(rows[0]))):
            for lane in reversed(range(len(rows))):
                below, width = rows[lane][turn]
                if states[lane] >= width << 40:
                    words.append((states[lane] & 0xFFFFFFFF).to_bytes(4, "little"))
                    states[lane] >>= 32
                states[lane] = (states[lane] // width << BITS) + states[lane] % width + below
    return b"".join([s.to_bytes(8, "little") for s in states] + words[::-1])


class RangeReader:
    """Decodes the stream of one lane with a range coder: the stream is a number whose digits are its bytes, in a range
    that shrinks."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.at, self.range = stream, 8, (1 << 64) - 1
        self.code = int.from_bytes(stream[:8].ljust(8, b"\0"), "big")  # how far it is above the range's lower end

    def pop(self, lane: int, below: Array) -> int:
        unit = self.range >> BITS
        if self.code // unit >= 1 << BITS:
            raise Bad(2)
        value = int(np.searchsorted(below, self.code // unit, "right")) - 1
        self.code -= unit * int(below[value])
        self.range = unit * int(below[value + 1] - below[value])
        while self.range < LEAST_RANGE:
            self.code = self.code << 8 | int.from_bytes(self.stream[self.at : self.at + 1], "big")
            self.range, self.at = self.range << 8, self.at + 1
        return value

    def finish(self) -> None:
        """Raises unless :func:`write_alone` would write exactly this stream."""
        if self.code >= LEAST_RANGE or self.stream[-1:] == b"\0":
            raise Bad(2)
        if len(self.stream) > self.at - 7:
            raise Bad(3)


def write_alone(symbols: list[list[tuple[int, int]]]) -> bytes:
    """The stream of one lane: the shortest number in the range that is left after all symbols."""
    low, size, digits = 0, (1 << 64) - 1, 0
    for below, width in chain.from_iterable(symbols):
        unit = size >> BITS
        low, size = low + unit * below, unit * width
        while size < LEAST_RANGE:
            low, size, digits = low << 8, size << 8, digits + 1
    return (-(-low // LEAST_RANGE)).to_bytes(digits + 1, "big").rstrip(b"\0")


def capacity(rows: int, variables: int, lanes: int) -> int:
    """Upper bound on the bytes of a chunk's stream: 24 bits for each value, and a state and a word for each lane."""
    return -(-rows * variables * 3 // 4) * 4 + 12 * lanes


def program_encode(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, codes: Tensor, registers: int, each: int,
    lanes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """codes (N, V) int32 -> payload (chunks, capacity) uint8 and the bytes used in each chunk, (chunks) int64."""
    model, n = Model(code, weights, tables, variables, registers), len(codes)
    chunks = -(-n // each)
    room = capacity(min(each, n), codes.shape[1], min(lanes, each, n))
    payload, sizes = torch.zeros(chunks, room, dtype=torch.uint8), torch.zeros(chunks, dtype=torch.int64)
    for chunk in range(chunks):
        rows = codes[chunk * each : (chunk + 1) * each].tolist()
        symbols = [symbols_of(model, row) for row in rows]
        beside = min(lanes, len(rows))
        stream = write(symbols, beside) if beside > 1 else write_alone(symbols)
        payload[chunk, : len(stream)] = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
        sizes[chunk] = len(stream)
    return payload.to(codes.device), sizes.to(codes.device)


def symbols_of(model: Model, row: list[int]) -> list[tuple[int, int]]:
    """(below, width) of each value of a row, out of 2**24, in coding order."""
    walk = model.walk()
    found = []
    ask = next(walk, None)
    while ask is not None:
        variable, below = ask
        value = row[variable]
        found.append((int(below[value]), int(below[value + 1] - below[value])))
        ask = answer(walk, value)
    return found


def answer(walk: Generator[tuple[int, Array], int, None], value: int) -> tuple[int, Array] | None:
    """Sends a value to the walk. Returns its next question, None at the end."""
    try:
        return walk.send(value)
    except StopIteration:
        return None


def read(model: Model, stream: bytes, out: Array, lanes: int) -> None:
    """Decodes a stream into out (rows, V)."""
    lanes = min(lanes, len(out))
    reader = RangeReader(stream) if lanes == 1 else Reader(stream, lanes)
    for first in range(0, len(out), lanes):
        rows = out[first : first + lanes]
        walks = [model.walk() for _ in rows]
        asks = [next(walk, None) for walk in walks]
        while asks[0] is not None:
            for lane, (walk, ask) in enumerate(zip(walks, asks, strict=True)):
                assert ask is not None  # rows walk in step
                variable, below = ask
                value = rows[lane, variable] = reader.pop(lane, below)
                asks[lane] = answer(walk, int(value))
    reader.finish()


def program_decode(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, payload: Tensor, offsets: Tensor, starts: Tensor,
    registers: int, lanes: int, rows: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """payload uint8 -> codes (rows, V) int32 and the damage of each chunk, (chunks) int64. Chunk c is
    payload[offsets[c] : offsets[c + 1]] and holds the rows starts[c] .. starts[c + 1] - 1."""
    model = Model(code, weights, tables, variables, registers)
    codes = np.zeros((rows, len(variables)), np.int32)
    damage = torch.zeros(len(starts) - 1, dtype=torch.int64)
    stream, ends, at = payload.cpu().numpy().tobytes(), offsets.tolist(), starts.tolist()
    for chunk in range(len(damage)):
        try:
            read(model, stream[ends[chunk] : ends[chunk + 1]], codes[at[chunk] : at[chunk + 1]], lanes)
        except Bad as bad:
            damage[chunk] = bad.args[0]
    return torch.from_numpy(codes).to(payload.device), damage.to(payload.device)
