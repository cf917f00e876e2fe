"""Finding a file's chunks without its index: each begins with a mark, and says its number and its size."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from .._core.errors import CorruptStreamError
from . import format as parts

WINDOW = 2**20  # bytes looked through for a mark at a time
EXTRA_CHUNKS = 2**16
READS = 8  # bytes examined, times the file's: a file full of false marks must end some time


def find_chunks(
    file: BinaryIO, start: int, file_bytes: int, header: parts.Header, max_bytes: int
) -> dict[int, tuple[int, int, int]]:
    """Of every chunk whose CRC is right, by its number: where it begins, its bytes and its items."""
    item_bytes, most = header.layout.item_bytes, file_bytes // 8 + EXTRA_CHUNKS
    found: dict[int, tuple[int, int, int]] = {}
    at, budget = _next(file, start), READS * file_bytes + WINDOW
    while at is not None and budget > 0:
        file.seek(at)
        try:
            head = parts.Head.unpack(file.read(parts.MOST_HEAD), item_bytes, "")
            size = head.length + head.size
            fits = head.items <= header.chunk_items and head.size <= head.items * item_bytes and head.number < most
            if not fits or size > min(max_bytes, file_bytes - at):
                raise CorruptStreamError("no chunk of this file")
            file.seek(at)
            data = file.read(size)
            budget -= size
            if not head.fits(data[: head.length], data[head.length :]):
                raise CorruptStreamError("another CRC")
        except CorruptStreamError:
            at, budget = _next(file, at + 1), budget - parts.MOST_HEAD
            continue
        found.setdefault(head.number, (at, size, head.items))
        at = _next(file, at + size)
    last = max(found, default=0)
    return {number: chunk for number, chunk in found.items() if number == last or chunk[2] == header.chunk_items}


def _next(file: BinaryIO, at: int) -> int | None:
    """Where the next mark is, from ``at`` on."""
    while True:
        file.seek(at)
        data = file.read(WINDOW)
        place = data.find(parts.CHUNK)
        if place >= 0:
            return at + place
        if len(data) < WINDOW:
            return None
        at += WINDOW - 1


def table(found: dict[int, tuple[int, int, int]], chunk_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, bytes and items (chunks,) up to the last chunk found; those that are missing have the offset -1."""
    count = max(found, default=-1) + 1
    offsets, sizes = np.full(count, -1), np.zeros(count, np.int64)
    items = np.full(count, chunk_items)
    for number, chunk in found.items():
        offsets[number], sizes[number], items[number] = chunk
    return offsets, sizes, items
