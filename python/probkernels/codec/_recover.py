"""Finds a file's chunks without its index. Every chunk begins with a mark and states its number and size."""

from __future__ import annotations

import re

import numpy as np

from .._core.errors import CorruptStreamError
from . import format as parts
from ._bytes import Bytes

WINDOW = 2**20  # bytes looked through for a mark at a time
EXTRA_CHUNKS = 2**16
MARKS = re.compile(b"|".join(map(re.escape, (parts.CHUNK, parts.MAGIC, parts.END))))
READS = 8  # bytes examined, times the file's: a file full of false marks must end some time


def find_chunks(file: Bytes, start: int, header: parts.Header, max_bytes: int) -> dict[int, tuple[int, int, int]]:
    """For each chunk with a correct CRC, by its number: offset, bytes and items.

    The search ends where this file ends or another one begins, because chunks of the other file would be taken for this
    one's: at a header, at an index, or at a chunk whose number does not exceed the previous one.
    """
    found: dict[int, tuple[int, int, int]] = {}
    at, budget, last = start, READS * file.size + WINDOW, -1
    while budget > 0 and (hit := _next(file, at)) is not None:
        at, mark = hit
        step, budget = 1, budget - parts.MOST_HEAD
        if mark == parts.CHUNK:
            head, size = _chunk(file, at, header, max_bytes)
            budget -= size
            if head is not None:
                if head.number <= last:
                    break
                step, last = size, head.number
                found[last] = (at, size, head.items)
        elif _is_header(file, at) if mark == parts.MAGIC else _is_end(file, start, at, header.file_id):
            break
        at += step
    return {number: chunk for number, chunk in found.items() if number == last or chunk[2] == header.chunk_items}


def _chunk(file: Bytes, at: int, header: parts.Header, max_bytes: int) -> tuple[parts.Head | None, int]:
    """The head of the chunk at this offset, or None, and the number of bytes examined."""
    item_bytes, most = header.layout.item_bytes, file.size // 8 + EXTRA_CHUNKS
    try:
        head = parts.Head.unpack(file.read(at, parts.MOST_HEAD), item_bytes, "")
    except CorruptStreamError:
        return None, 0
    size = head.length + head.size
    fits = head.items <= header.chunk_items and head.size <= head.items * item_bytes and head.number < most
    if not fits or size > min(max_bytes, file.size - at):
        return None, 0
    data = file.read(at, size)
    return (head if head.fits(data[: head.length], data[head.length :], header.file_id) else None), size


def _is_header(file: Bytes, at: int) -> bool:
    """Whether a file begins at this offset."""
    try:
        parts.Header.unpack(file.read(at, parts.Header.size(file.read(at, parts.PREFIX_BYTES))))
    except CorruptStreamError:
        return False
    return True


def _is_end(file: Bytes, start: int, at: int, file_id: bytes) -> bool:
    """Whether a trailer with an intact index ends at this offset."""
    trailer_at = at + len(parts.END) - parts.TRAILER_BYTES
    try:
        index_at = trailer_at - parts.index_bytes(file.read(trailer_at, parts.TRAILER_BYTES))
        if index_at < start:
            return False
        parts.unpack_end(file.read(index_at, trailer_at + parts.TRAILER_BYTES - index_at), file_id)
    except CorruptStreamError:
        return False
    return True


def _next(file: Bytes, at: int) -> tuple[int, bytes] | None:
    """The next mark from ``at`` on: its offset and which mark it is."""
    while data := file.read(at, WINDOW):
        if found := MARKS.search(data):
            return at + found.start(), found.group()
        if len(data) < WINDOW:
            return None
        at += WINDOW - len(parts.MAGIC) + 1
    return None


def table(found: dict[int, tuple[int, int, int]], chunk_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, bytes and items, each (chunks,), up to the last chunk found. Missing chunks have offset -1."""
    count = max(found, default=-1) + 1
    offsets, sizes = np.full(count, -1), np.zeros(count, np.int64)
    items = np.full(count, chunk_items)
    for number, chunk in found.items():
        offsets[number], sizes[number], items[number] = chunk
    return offsets, sizes, items
