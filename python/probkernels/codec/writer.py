"""Writes containers item by item. A file appears under its name only when it is complete."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np

from .._core.errors import CorruptStreamError, message
from .._core.outputs import Output
from . import format as parts
from ._bytes import writable
from .layout import Layout, whole

WHOLE, PIECES, MARGIN = 2**14, 4, 1.25  # of the look whether DEFLATE is smaller than what the model gave
GROUP = 16  # full chunks that are encoded together, so that threads have work


class Coder(Protocol):
    """The interface between a container and its model. :class:`ProgramCoder` implements it."""

    @property
    def model_id(self) -> bytes:
        """32 bytes that identify the model."""

    @property
    def categories(self) -> Sequence[int]:
        """Number of categories of each variable."""

    def encode(self, codes: np.ndarray, rows_per_chunk: int, lanes: int) -> list[bytes]:
        """Encodes codes (N, V) int32, one payload for each chunk."""

    def decode(self, payloads: list[bytes], rows: list[int], lanes: int) -> np.ndarray:
        """Decodes payloads to codes (sum of rows, V) int32. Raises :class:`CorruptStreamError` if no ``encode`` can
        have made them."""


class CodecWriter:
    """Writes a container, a few items at a time, in bounded memory.

    The write to a path is atomic: the file has a temporary name in the same folder until :meth:`close` renames it. If
    the process dies earlier, an existing file stays. A pipe or device receives bytes as they come; ``-`` means standard
    output. A chunk is stored without the model if it has values outside the model's alphabets or if DEFLATE makes it
    smaller.

    Args:
        target: a path, or a writable binary file.
        coder: model of the items.
        layout: layout of the items.
        chunk_items: number of items in a chunk. A reader decodes whole chunks. About 512 kB by default.
        lanes: number of rows coded side by side. By default 16, or fewer for small chunks.
        model: bytes of a model file to store in the container.
        note: JSON data to store in the container. :meth:`CodecReader.note` returns it.
        verify: whether to decode each chunk and compare it with its items before writing it. Decoding takes about as
            long as encoding.

    Raises:
        TypeError: ``target``, a number or ``note`` has the wrong type.
        ValueError: a number is below one, or layout and coder differ in their number of variables.

    Example:
        >>> import io, torch
        >>> from probkernels.circuits import factorized
        >>> from probkernels.codec import PCCodec
        >>> x = torch.randint(0, 4, (100, 6)).byte().numpy()
        >>> codec, file = PCCodec(factorized(torch.tensor(x).long(), categories=4)), io.BytesIO()
        >>> with codec.writer(file) as writer:
        ...     writer.append(x[:50])
        ...     writer.append(x[50:])
        >>> bool((codec.decompress(file.getvalue()) == x).all())
        True
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        coder: Coder,
        layout: Layout,
        *,
        chunk_items: int | None = None,
        lanes: int | None = None,
        model: bytes = b"",
        note: Mapping[str, object] | None = None,
        verify: bool = False,
    ) -> None:
        chunk_items = whole(
            "CodecWriter", "chunk_items", parts.default_chunk(layout) if chunk_items is None else chunk_items
        )
        if lanes is None:
            lanes = parts.default_lanes(chunk_items * layout.rows_per_item * layout.variables)
        lanes = whole("CodecWriter", "lanes", lanes)
        for name, value, most in (("chunk_items", chunk_items, 2**32), ("lanes", lanes, 2**16)):
            if not 1 <= value < most:
                raise ValueError(message("CodecWriter", name, f"a number in 1 .. {most - 1}", repr(value)))
        categories = tuple(int(size) for size in coder.categories)
        if layout.variables != len(categories):
            wanted = f"rows of {len(categories)} variables, as the model has"
            raise ValueError(message("CodecWriter", "layout", wanted, f"{layout.variables}"))
        self.coder, self.layout, self.chunk_items, self.lanes = coder, layout, chunk_items, lanes
        self.bytes = self.items = 0
        self._alphabets = np.array(categories)
        self._waiting: list[np.ndarray] = []
        self._sizes: list[int] = []
        self._crcs: list[int] = []
        self._verify = verify
        packed = parts.pack_note(note)
        self._header = parts.Header(layout, categories, coder.model_id, chunk_items, lanes, len(model), len(packed))
        self._rest: bytes | None = packed + model  # until the first chunk, which names the file
        self._ended = False
        self._output = Output(target) if isinstance(target, (str, Path)) else None
        self._file = writable("CodecWriter", target) if self._output is None else self._output.file

    def _begin(self, first: bytes) -> None:
        """Writes header, note and model. Needs the bytes of the first chunk's items."""
        if self._rest is not None:
            self._header = self._header.named(self._rest, first)
            self._write(self._header.pack() + self._rest)
            self._rest = None

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes += len(data)

    def append(self, items: object) -> None:
        """Adds items (N, *shape) of the layout's dtype.

        Raises:
            TypeError, ValueError: the items have another dtype or shape, or the writer is closed.
            CorruptStreamError: with ``verify``, a chunk does not decode to its items.
        """
        if self._ended:
            raise ValueError(message("CodecWriter.append", "self", "an open writer", "a closed one"))
        array = self.layout.checked("CodecWriter.append", items)
        step = self.chunk_items * GROUP
        for start in range(0, len(array), step):
            self._waiting.append(array[start : start + step].copy())
            if sum(map(len, self._waiting)) >= step:
                self._flush(whole=False)

    def _flush(self, whole: bool) -> None:
        """Writes the waiting full chunks, and with ``whole`` also a shorter last one."""
        if not self._waiting:
            return
        items = np.concatenate(self._waiting)
        end = len(items) if whole else len(items) // self.chunk_items * self.chunk_items
        self._waiting = [items[end:]] if end < len(items) else []
        chunks = [items[i : min(i + self.chunk_items, end)] for i in range(0, end, self.chunk_items)]
        codes = [self.layout.codes(chunk) for chunk in chunks]
        fits = [bool(((code >= 0) & (code < self._alphabets)).all()) for code in codes]
        payloads = self._encoded([code for code, fit in zip(codes, fits, strict=True) if fit])
        if self._verify and payloads:
            self._decode_again([chunk for chunk, fit in zip(chunks, fits, strict=True) if fit], payloads)
        coded = iter(payloads)
        for chunk, fit in zip(chunks, fits, strict=True):
            self._chunk(chunk, next(coded) if fit else None)

    def _encoded(self, codes: list[np.ndarray]) -> list[bytes]:
        if not codes:
            return []
        rows = self.chunk_items * self.layout.rows_per_item
        return self.coder.encode(np.concatenate(codes).astype(np.int32), rows, self.lanes)

    def _decode_again(self, chunks: list[np.ndarray], payloads: list[bytes]) -> None:
        rows = [len(chunk) * self.layout.rows_per_item for chunk in chunks]
        found = self.layout.items(self.coder.decode(payloads, rows, self.lanes))
        if not np.array_equal(found, np.concatenate(chunks)):
            hint = "this is a fault of the library: please report it"
            raise CorruptStreamError(f"CodecWriter: what was coded does not decode to its items. Hint: {hint}")

    def _chunk(self, items: np.ndarray, coded: bytes | None) -> None:
        plain = items.tobytes()
        self._begin(plain)
        kind, payload = (parts.RAW, plain) if coded is None or len(coded) >= len(plain) else (parts.CODED, coded)
        if _may_deflate_to(plain, len(payload)):
            deflated = zlib.compress(plain, 9)
            kind, payload = (parts.DEFLATE, deflated) if len(deflated) < len(payload) else (kind, payload)
        head = parts.Head.pack(kind, len(self._sizes), plain, len(items), payload, self._header.file_id)
        self._sizes.append(len(head) + len(payload))
        self._crcs.append(parts.Head.unpack(head, self.layout.item_bytes, "").check)
        self._write(head + payload)
        self.items += len(items)

    def close(self) -> None:
        """Completes the file. A file given by its path now appears under its name. A second call does nothing."""
        if self._ended:
            return
        self._flush(whole=True)
        self._begin(b"")
        self._write(parts.pack_end(self.items, self._sizes, self._crcs, self._header.file_id))
        if self._output is None:
            self._file.flush()
        else:
            self._output.commit()
        self._ended = True

    def abort(self) -> None:
        """Stops writing and removes the temporary file."""
        self._ended = True
        if self._output is not None:
            self._output.abort()

    def __enter__(self) -> CodecWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


def _may_deflate_to(plain: bytes, size: int) -> bool:
    """Whether DEFLATE may give fewer than ``size`` bytes. Tries an eighth of the data, because all of it would take as
    long as coding."""
    if size >= len(plain) or len(plain) <= WHOLE:
        return True
    piece, step = len(plain) // 32, len(plain) // PIECES
    sample = b"".join(plain[i * step : i * step + piece] for i in range(PIECES))
    return len(zlib.compress(sample, 1)) * len(plain) < MARGIN * size * len(sample)
