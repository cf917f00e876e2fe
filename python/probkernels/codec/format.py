"""Bytes of the container's parts. Everything read here may come from anybody: sizes are checked before use."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from .._core.errors import CorruptStreamError
from ._checksums import crc32c
from .layout import DTYPES, MOST_DIMENSIONS, MOST_VARIABLES, Layout

MAGIC = b"\x89PKC\r\n\x1a\n"  # a transfer in text mode breaks it
END = b"PKCEND\r\n"
CHUNK = b"CHNK"
INDEX = b"INDX"
VERSION = 1
PROFILE = 1  # the arithmetic f32-fma-seq-v1
PROBABILITY_BITS, WEIGHT_BITS = 24, 16
EMBEDDED = 1  # the flag of a file that carries its model
CODED, RAW, DEFLATE = 0, 1, 2  # kinds of chunks

PREFIX = struct.Struct("<8sHHIHBBBBHI32sqIIIQ")
HEAD = struct.Struct("<4sB3xIQI8s")
INDEX_PREFIX = struct.Struct("<4sI")
ENTRY = np.dtype([("offset", "<u8"), ("items", "<u4")])
TRAILER = struct.Struct("<QQQQ8s")
CRC = struct.Struct("<I")
HEAD_BYTES, TRAILER_BYTES = HEAD.size + CRC.size, TRAILER.size + CRC.size
MOST_ALPHABET = 65536


def sealed(data: bytes) -> bytes:
    """The data and its CRC32C."""
    return data + CRC.pack(crc32c(data))


def opened(data: bytes, part: str) -> bytes:
    """What :func:`sealed` was given.

    Raises:
        CorruptStreamError: too short, or another CRC.
    """
    if len(data) < CRC.size:
        raise CorruptStreamError(f"{part}: the file ends inside it")
    body = data[: -CRC.size]
    if CRC.unpack(data[-CRC.size :])[0] != crc32c(body):
        raise CorruptStreamError(f"{part}: its CRC32C does not match")
    return body


@dataclass(frozen=True)
class Header:
    """What a file says about all of its items."""

    layout: Layout
    categories: tuple[int, ...]  # of every variable
    model_id: bytes
    chunk_items: int
    lanes: int
    model_bytes: int = 0  # of the model that follows the header; 0 without one

    def pack(self) -> bytes:
        """The header's bytes."""
        layout, shape = self.layout, self.layout.shape
        alphabets = self.categories[:1] if len(set(self.categories)) == 1 else self.categories
        tile = layout.tile or (0, 0)
        size = PREFIX.size + 4 * (len(shape) + len(alphabets)) + CRC.size
        prefix = PREFIX.pack(
            MAGIC, VERSION, EMBEDDED if self.model_bytes else 0, size, PROFILE, DTYPES.index(layout.dtype),
            PROBABILITY_BITS, WEIGHT_BITS, len(shape), self.lanes, self.chunk_items, self.model_id, layout.offset,
            *tile, len(alphabets), self.model_bytes,
        )  # fmt: skip
        return sealed(prefix + np.array([*shape, *alphabets], "<u4").tobytes())

    @staticmethod
    def size(prefix: bytes) -> int:
        """Bytes of the header that starts with ``prefix``.

        Raises:
            CorruptStreamError: no such file, or of another version.
        """
        if len(prefix) < PREFIX.size or prefix[:8] != MAGIC:
            raise CorruptStreamError("header: not a file of this codec")
        fields = PREFIX.unpack(prefix[: PREFIX.size])
        if fields[1] != VERSION:
            raise CorruptStreamError(f"header: expected version {VERSION}, got {fields[1]}")
        size, dimensions, alphabets = fields[3], fields[8], fields[15]
        if size != PREFIX.size + 4 * (dimensions + alphabets) + CRC.size or alphabets > MOST_VARIABLES:
            raise CorruptStreamError(f"header: impossible size {size}")
        return size

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """The header from its :meth:`size` bytes.

        Raises:
            CorruptStreamError: damaged, or values that no writer makes.
        """
        body = opened(data, "header")
        fields = PREFIX.unpack(body[: PREFIX.size])
        _, _, flags, _, profile, dtype, probability, weight, dimensions, lanes, chunk_items, model_id = fields[:12]
        offset, high, wide, alphabets, model_bytes = fields[12:]
        if (profile, probability, weight) != (PROFILE, PROBABILITY_BITS, WEIGHT_BITS):
            raise CorruptStreamError(f"header: unknown arithmetic {(profile, probability, weight)}")
        if dtype >= len(DTYPES) or dimensions > MOST_DIMENSIONS or not lanes or not chunk_items:
            raise CorruptStreamError("header: impossible values")
        if flags != (EMBEDDED if model_bytes else 0):
            raise CorruptStreamError(f"header: unknown flags {flags:#x}")
        numbers = np.frombuffer(body[PREFIX.size :], "<u4").tolist()
        try:
            layout = Layout(tuple(numbers[:dimensions]), DTYPES[dtype], offset, (high, wide) if high or wide else None)
        except (TypeError, ValueError) as error:
            raise CorruptStreamError(f"header: {error}") from None
        categories = numbers[dimensions:]
        if alphabets not in (1, layout.variables) or not all(1 <= size <= MOST_ALPHABET for size in categories):
            raise CorruptStreamError("header: impossible alphabets")
        if alphabets == 1:
            categories = categories * layout.variables
        return cls(layout, tuple(categories), model_id, chunk_items, lanes, model_bytes)


@dataclass(frozen=True)
class Head:
    """What stands before a chunk's payload."""

    kind: int
    items: int
    size: int  # bytes of the payload
    crc: int  # CRC32C of the payload
    digest: bytes  # of the decoded items

    def pack(self) -> bytes:
        """The head's bytes."""
        return sealed(HEAD.pack(CHUNK, self.kind, self.items, self.size, self.crc, self.digest))

    @classmethod
    def unpack(cls, data: bytes, part: str) -> Head:
        """The head from its bytes.

        Raises:
            CorruptStreamError: damaged, or of an unknown kind.
        """
        name, *fields = HEAD.unpack(opened(data, part)) if len(data) == HEAD_BYTES else (b"",)
        if name != CHUNK:
            raise CorruptStreamError(f"{part}: no chunk starts here")
        if fields[0] > DEFLATE or not fields[1]:
            raise CorruptStreamError(f"{part}: unknown kind {fields[0]} or no items")
        return cls(*fields)


def pack_index(offsets: list[int], items: list[int]) -> bytes:
    """Where each chunk's head lies, and how many items it has."""
    entries = np.zeros(len(offsets), ENTRY)
    entries["offset"], entries["items"] = offsets, items
    return sealed(INDEX_PREFIX.pack(INDEX, len(offsets)) + entries.tobytes())


def unpack_index(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and items (chunks,) int64.

    Raises:
        CorruptStreamError: damaged.
    """
    body = opened(data, "index")
    if len(body) < INDEX_PREFIX.size or (len(body) - INDEX_PREFIX.size) % ENTRY.itemsize:
        raise CorruptStreamError("index: impossible size")
    name, count = INDEX_PREFIX.unpack(body[: INDEX_PREFIX.size])
    entries = np.frombuffer(body, ENTRY, offset=INDEX_PREFIX.size)
    if name != INDEX or count != len(entries) or (entries["offset"] >= 2**62).any():
        raise CorruptStreamError("index: impossible values")
    return entries["offset"].astype(np.int64), entries["items"].astype(np.int64)


@dataclass(frozen=True)
class Trailer:
    """The last bytes of a complete file."""

    items: int
    index_offset: int
    index_bytes: int
    file_bytes: int

    def pack(self) -> bytes:
        """The trailer's bytes."""
        return sealed(TRAILER.pack(self.items, self.index_offset, self.index_bytes, self.file_bytes, END))

    @classmethod
    def unpack(cls, data: bytes, file_bytes: int) -> Trailer:
        """The trailer from the last bytes of a file of so many.

        Raises:
            CorruptStreamError: damaged, or the file was cut or extended.
        """
        *fields, name = TRAILER.unpack(opened(data, "trailer")) if len(data) == TRAILER_BYTES else (b"",)
        if name != END:
            raise CorruptStreamError("trailer: not found; the file was cut, or its writer did not finish")
        trailer = cls(*fields)
        if trailer.file_bytes != file_bytes or trailer.index_offset + trailer.index_bytes + TRAILER_BYTES != file_bytes:
            raise CorruptStreamError(f"trailer: expected {trailer.file_bytes} bytes, got a file of {file_bytes}")
        return trailer


def overhead(chunks: int) -> int:
    """Bytes that chunks, index and trailer add to header and payloads."""
    return chunks * (HEAD_BYTES + ENTRY.itemsize) + INDEX_PREFIX.size + CRC.size + TRAILER_BYTES


def default_chunk(layout: Layout) -> int:
    """Items of a chunk of about 256 kB: what a flush costs then vanishes, and random access stays cheap."""
    return max(1, math.ceil(2**18 / max(1, layout.item_bytes)))
