"""Checksums of the container: CRC32C over stored bytes, and 64 bits of BLAKE2b over what they decode to."""

from __future__ import annotations

import hashlib

CASTAGNOLI = 0x82F63B78  # reflected


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return tuple(table)


TABLE = _table()


def crc32c(data: bytes | memoryview) -> int:
    """CRC32C (Castagnoli) of bytes."""
    state = 0xFFFFFFFF
    for byte in memoryview(data).cast("B"):
        state = state >> 8 ^ TABLE[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF


def digest64(data: bytes | memoryview) -> bytes:
    """BLAKE2b with a digest of 8 bytes."""
    return hashlib.blake2b(data, digest_size=8).digest()
