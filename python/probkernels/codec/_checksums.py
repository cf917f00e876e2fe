"""Checksums of the container: CRC32C of the stored bytes, and 64 bits of BLAKE2b of the decoded items."""

from __future__ import annotations

from functools import cache

import numpy as np

from .._core import digests

CASTAGNOLI = 0x82F63B78  # reflected
STRIP = 64  # bytes that one entry of a NumPy array goes through, one after the other
SHORT = 1024  # bytes below which a loop in Python is faster


@cache
def _byte_table() -> np.ndarray:
    """(256,) uint32: the CRC register after each byte, starting from 0."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(CASTAGNOLI), np.uint32(0))
    return table


@cache
def _byte_tuple() -> tuple[int, ...]:
    return tuple(_byte_table().tolist())


def _apply(operator: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Applies a linear map to CRC registers. ``operator`` (4, 256) holds its value at every byte of the register."""
    found = operator[0][state & 255]
    for place in range(1, 4):
        found ^= operator[place][state >> 8 * place & 255]
    return found


@cache
def _zeros(power: int) -> np.ndarray:
    """The map (4, 256) that STRIP * 2**power zero bytes apply to the register."""
    if power:
        half = _zeros(power - 1)
        return _apply(half, half)
    state = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(STRIP):
        state = state >> 8 ^ _byte_table()[state & 255]
    return state


def crc32c(data: bytes) -> int:
    """CRC32C (Castagnoli) of bytes. Works on strips side by side, because the register is linear in them."""
    if len(data) < SHORT:
        return _short(data)
    strips = -(-len(data) // STRIP)
    padded = np.zeros(strips * STRIP, np.uint8)  # zeros in front leave a register of zero alone
    start = len(padded) - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 255  # as if the register had started with ones
    state = np.zeros(strips, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(strips, STRIP).T):
        state = state >> 8 ^ _byte_table()[(state ^ column) & 255]
    power = 0
    while len(state) > 1:
        if len(state) % 2:
            state = np.concatenate([np.zeros(1, np.uint32), state])
        state = _apply(_zeros(power), state[0::2]) ^ state[1::2]
        power += 1
    return int(state[0]) ^ 0xFFFFFFFF


def _short(data: bytes) -> int:
    table, state = _byte_tuple(), 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ table[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF


def digest64(data: bytes) -> bytes:
    """BLAKE2b with an 8-byte digest."""
    return digests.of_bytes(data, size=8)
