"""Bytes of the container's parts. Files may come from untrusted sources, so sizes are checked before use."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .._core.checks import describe
from .._core.errors import CorruptStreamError, message
from ._checksums import crc32c, digest64
from .layout import DTYPES, MOST_DIMENSIONS, MOST_VARIABLES, Layout

MAGIC = b"\x89PKC\r\n\x1a\n"  # a transfer in text mode breaks it
END = b"PKCE"
CHUNK = b"\xc5\x9e"
VERSIONS = (1, 2)  # the first has no file id
PROFILE = 2  # the arithmetic f32-fma-seq-v2, 24 bits of a probability and 16 of a weight
EMBEDDED = 1  # the flag of a file that carries its model
CODED, RAW, DEFLATE = 0, 1, 2  # kinds of chunks
ID_BYTES = 16  # of the model's 32
FILE_ID_BYTES = 4  # as many as a CRC has

PREFIX_BYTES = len(MAGIC) + 1 + 5  # magic, version and the header's size, a number of at most 5 bytes
CRC = struct.Struct("<I")
TRAILER = struct.Struct("<II4s")
TRAILER_BYTES = TRAILER.size
MOST_ALPHABET = 65536
MOST_NOTE = 2**28  # bytes of JSON
MOST_HEAD = 64  # bytes of a chunk's head, checksums included
SMALL = 4096  # bytes of decoded items below which a chunk has short checksums


def number(value: int) -> bytes:
    """Encodes a whole number >= 0 with seven bits in each byte, lowest first. The highest bit says that more bytes
    follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass
class Cursor:
    """Reads bytes from front to back."""

    data: bytes
    part: str
    at: int = 0

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            CorruptStreamError: fewer bytes are left.
        """
        if self.at + size > len(self.data):
            raise CorruptStreamError(f"{self.part}: ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        """The next :func:`number`, below 2**64.

        Raises:
            CorruptStreamError: the number is cut off, too large, or longer than necessary.
        """
        value, shift = 0, 0
        while shift < 64:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if byte >= 128 or value >= 2**64 or (shift and not byte):
            raise CorruptStreamError(f"{self.part}: an impossible number")
        return value


def sealed(data: bytes) -> bytes:
    """The data and its CRC32C."""
    return data + CRC.pack(crc32c(data))


def opened(data: bytes, part: str) -> bytes:
    """The inverse of :func:`sealed`.

    Raises:
        CorruptStreamError: the data are too short, or the CRC does not match.
    """
    if len(data) < CRC.size:
        raise CorruptStreamError(f"{part}: the file ends inside it")
    body = data[: -CRC.size]
    if CRC.unpack(data[-CRC.size :])[0] != crc32c(body):
        raise CorruptStreamError(f"{part}: its CRC32C does not match")
    return body


@dataclass(frozen=True)
class Header:
    """What a file states about all of its items."""

    layout: Layout
    categories: tuple[int, ...]  # of every variable
    model_id: bytes  # the first 16 bytes
    chunk_items: int
    lanes: int
    model_bytes: int = 0  # of the model that follows header and note; 0 without one
    note_bytes: int = 0  # of the note that follows the header; 0 without one
    file_id: bytes = b""  # which the checksums of chunks and index depend on; none in files of version 1

    def named(self, rest: bytes, first: bytes) -> Header:
        """This header with the id of its file.

        Args:
            rest: note and model, the bytes that follow the header.
            first: bytes of the first chunk's items.
        """
        digests = digest64(replace(self, file_id=b"").pack()) + digest64(rest) + digest64(first)
        return replace(self, file_id=digest64(digests)[:FILE_ID_BYTES])

    def pack(self) -> bytes:
        """The header's bytes."""
        layout = self.layout
        alphabets = self.categories[:1] if len(set(self.categories)) == 1 else self.categories
        offset = 2 * layout.offset if layout.offset >= 0 else -2 * layout.offset - 1
        numbers = (
            len(layout.shape), *layout.shape, self.lanes, self.chunk_items, offset, *(layout.tile or (0, 0)),
            self.model_bytes, self.note_bytes, len(alphabets),
        )  # fmt: skip
        flags = EMBEDDED if self.model_bytes else 0
        body = bytes([flags, PROFILE, DTYPES.index(layout.dtype)]) + b"".join(map(number, numbers))
        body += (np.array(alphabets) - 1).astype("<u2").tobytes() + self.model_id[:ID_BYTES] + self.file_id
        version = 2 if self.file_id else 1
        return sealed(MAGIC + bytes([version]) + number(len(body) + CRC.size) + body)

    @staticmethod
    def size(prefix: bytes) -> int:
        """Number of bytes of the header that starts with ``prefix``.

        Raises:
            CorruptStreamError: this is not a container, or its version is unknown.
        """
        if prefix[:8] != MAGIC or len(prefix) < PREFIX_BYTES:
            raise CorruptStreamError("header: not a file of this codec")
        if prefix[8] not in VERSIONS:
            raise CorruptStreamError(f"header: expected version {' or '.join(map(str, VERSIONS))}, got {prefix[8]}")
        cursor = Cursor(prefix[:PREFIX_BYTES], "header", 9)
        size = cursor.number()
        if size > 2 * MOST_VARIABLES + 256:
            raise CorruptStreamError(f"header: impossible size {size}")
        return cursor.at + size

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Reads the header from its bytes (:meth:`size` of them).

        Raises:
            CorruptStreamError: the header is damaged or has values that no writer makes.
        """
        cursor = Cursor(opened(data, "header"), "header", 9)
        cursor.number()
        flags, profile, dtype = cursor.take(3)
        dimensions = cursor.number()
        if profile != PROFILE:
            raise CorruptStreamError(f"header: unknown arithmetic {profile}")
        if dtype >= len(DTYPES) or dimensions > MOST_DIMENSIONS:
            raise CorruptStreamError("header: impossible values")
        shape = tuple(cursor.number() for _ in range(dimensions))
        lanes, chunk_items, offset, high, wide = (cursor.number() for _ in range(5))
        model_bytes, note_bytes, alphabets = (cursor.number() for _ in range(3))
        if flags != (EMBEDDED if model_bytes else 0):
            raise CorruptStreamError(f"header: unknown flags {flags:#x}")
        if not 1 <= lanes < 2**16 or not 1 <= chunk_items < 2**32:
            raise CorruptStreamError("header: impossible lanes or items of a chunk")
        try:
            tile = (high, wide) if high or wide else None
            layout = Layout(shape, DTYPES[dtype], -(offset + 1) // 2 if offset % 2 else offset // 2, tile)
        except (TypeError, ValueError) as error:
            raise CorruptStreamError(f"header: {error}") from None
        if alphabets not in (1, layout.variables):
            raise CorruptStreamError("header: impossible alphabets")
        categories = [size + 1 for size in np.frombuffer(cursor.take(2 * alphabets), "<u2").tolist()]
        if alphabets == 1:
            categories = categories * layout.variables
        model_id, file_id = cursor.take(ID_BYTES), cursor.take(FILE_ID_BYTES if data[8] > 1 else 0)
        if cursor.at != len(cursor.data):
            raise CorruptStreamError("header: impossible size")
        return cls(layout, tuple(categories), model_id, chunk_items, lanes, model_bytes, note_bytes, file_id)


def note_text(op: str, note: Mapping[str, object] | None) -> bytes:
    """A note as JSON; nothing for an empty one.

    Raises:
        TypeError: no dict, or not for JSON.
    """
    if note is not None and not isinstance(note, Mapping):
        raise TypeError(message(op, "note", "a dict that JSON can hold", describe(note)))
    try:
        return json.dumps(dict(note)).encode() if note else b""
    except (TypeError, ValueError) as error:
        raise TypeError(message(op, "note", "a dict that JSON can hold", f"one of which it says: {error}")) from None


def pack_note(note: Mapping[str, object] | None) -> bytes:
    """JSON as a zlib stream with a CRC (see :func:`sealed`). No bytes for an empty note.

    Raises:
        TypeError: JSON cannot hold the note.
        ValueError: the note is longer than any reader accepts.
    """
    text = note_text("CodecWriter", note)
    if len(text) > MOST_NOTE:
        raise ValueError(message("CodecWriter", "note", f"at most {MOST_NOTE} bytes of JSON", str(len(text))))
    return sealed(zlib.compress(text, 9)) if text else b""


def unpack_note(data: bytes, max_bytes: int) -> dict[str, object]:
    """The inverse of :func:`pack_note`.

    Raises:
        CorruptStreamError: the note is damaged or longer than ``max_bytes``.
    """
    if not data:
        return {}
    expander, most = zlib.decompressobj(), min(max_bytes, MOST_NOTE)
    try:
        text = expander.decompress(opened(data, "note"), most + 1)
        note = json.loads(text) if len(text) <= most and expander.eof else None
    except (zlib.error, ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise CorruptStreamError(f"note: damaged, or longer than {most} bytes")
    return note


def checks(plain_bytes: int) -> tuple[int, int]:
    """Bytes of a chunk's CRC and of its digest, given the bytes of its items. Random damage passes both with
    probability 2**-32 in small chunks and 2**-96 in larger ones."""
    return (2, 2) if plain_bytes < SMALL else (4, 8)


@dataclass(frozen=True)
class Head:
    """The bytes before a chunk's payload."""

    kind: int
    number: int  # of the chunk, from 0
    items: int
    size: int  # bytes of the payload
    digest: bytes  # of the decoded items
    crc: bytes  # of the head before it and the payload
    length: int  # of the head itself

    @staticmethod
    def pack(kind: int, place: int, plain: bytes, items: int, payload: bytes, file_id: bytes) -> bytes:
        """The bytes of a chunk's head with its checksums. The file id enters them, so a chunk of another file does not
        pass."""
        crc_bytes, digest_bytes = checks(len(plain))
        head = CHUNK + bytes([kind]) + number(place) + number(items) + number(len(payload))
        head += digest64(file_id + plain)[:digest_bytes]
        return head + CRC.pack(crc32c(file_id + head + payload))[:crc_bytes]

    @classmethod
    def unpack(cls, data: bytes, item_bytes: int, part: str) -> Head:
        """The head at the start of ``data``.

        Raises:
            CorruptStreamError: the head is damaged or of an unknown kind.
        """
        cursor = Cursor(data, part)
        if cursor.take(2) != CHUNK:
            raise CorruptStreamError(f"{part}: no chunk starts here")
        kind = cursor.take(1)[0]
        place, items, size = (cursor.number() for _ in range(3))
        if kind > DEFLATE or not items:
            raise CorruptStreamError(f"{part}: unknown kind {kind} or no items")
        crc_bytes, digest_bytes = checks(items * item_bytes)
        digest, crc = cursor.take(digest_bytes), cursor.take(crc_bytes)
        return cls(kind, place, items, size, digest, crc, cursor.at)

    def fits(self, head: bytes, payload: bytes, file_id: bytes) -> bool:
        """Whether the CRC matches the head's bytes and the payload in the file ``file_id``."""
        found = crc32c(file_id + head[: self.length - len(self.crc)] + payload)
        return CRC.pack(found)[: len(self.crc)] == self.crc

    @property
    def check(self) -> int:
        """The CRC as a number, as the index stores it."""
        return int.from_bytes(self.crc, "little")

    def decodes_to(self, plain: bytes, file_id: bytes) -> bool:
        """Whether the digest matches the items' bytes in the file ``file_id``."""
        return digest64(file_id + plain)[: len(self.digest)] == self.digest


def pack_end(items: int, sizes: list[int], crcs: list[int], file_id: bytes) -> bytes:
    """Index and trailer: the number of items, the bytes of each chunk with its head, and the CRC of each chunk but the
    first. The file id already covers the first chunk's items."""
    index = number(items) + b"".join(map(number, (*sizes, *crcs[1:])))
    return index + TRAILER.pack(len(index), crc32c(file_id + index), END)


def index_bytes(trailer: bytes) -> int:
    """Bytes of the index, which precedes the trailer.

    Raises:
        CorruptStreamError: there is no trailer.
    """
    size, _, name = TRAILER.unpack(trailer) if len(trailer) == TRAILER_BYTES else (0, 0, b"")
    if name != END:
        raise CorruptStreamError("trailer: not found; the file was cut, or its writer did not finish")
    return int(size)


def unpack_end(data: bytes, file_id: bytes) -> tuple[int, np.ndarray, np.ndarray | None]:
    """Number of items in the file, bytes of each chunk (chunks,) int64, and CRC of each chunk but the first. Version 1
    has no CRCs: None.

    Raises:
        CorruptStreamError: damaged.
    """
    index, (_, crc, _) = data[:-TRAILER_BYTES], TRAILER.unpack(data[-TRAILER_BYTES:])
    if crc32c(file_id + index) != crc:
        raise CorruptStreamError("index: its CRC32C does not match")
    numbers = _numbers(np.frombuffer(index, np.uint8))
    if not file_id:
        return int(numbers[0]), numbers[1:], None
    chunks = len(numbers) // 2
    if len(numbers) not in (1, 2 * chunks):
        raise CorruptStreamError("index: impossible numbers")
    return int(numbers[0]), numbers[1 : chunks + 1], numbers[chunks + 1 :]


def _numbers(data: np.ndarray) -> np.ndarray:
    """Decodes concatenated outputs of :func:`number`, each below 2**56."""
    ends = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not len(ends) or ends[-1] != len(data) - 1 or (ends - starts > 7).any():
        raise CorruptStreamError("index: impossible numbers")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((data & 127).astype(np.int64) << 7 * place, starts)


def overhead(chunks: int) -> int:
    """Upper bound on the bytes that chunk heads, index and trailer add to header and payloads."""
    return chunks * (MOST_HEAD + 12) + 8 + TRAILER_BYTES


def default_chunk(layout: Layout) -> int:
    """Number of items in a chunk of about 512 kB. At this size lanes and head cost almost nothing, and random access
    stays cheap."""
    return max(1, math.ceil(2**19 / max(1, layout.item_bytes)))


def default_lanes(values: int) -> int:
    """Number of lanes for chunks of ``values`` values. 16 is fastest, but each lane ends with 8 bytes, which matter in
    short chunks."""
    return max(1, min(16, 2 ** (values // 2**14).bit_length() // 2))
