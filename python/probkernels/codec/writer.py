"""Writing containers item by item; a file appears under its name only when it is whole."""

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
    """What the container needs of a model: :class:`ProgramCoder` is one."""

    @property
    def model_id(self) -> bytes:
        """32 bytes that name the model."""

    @property
    def categories(self) -> Sequence[int]:
        """Alphabet of every variable."""

    def encode(self, codes: np.ndarray, rows_per_chunk: int, lanes: int) -> list[bytes]:
        """Payloads of codes (N, V) int32, one a chunk."""

    def decode(self, payloads: list[bytes], rows: list[int], lanes: int) -> np.ndarray:
        """Codes (sum of rows, V) int32; :class:`CorruptStreamError` for payloads that no ``encode`` made."""


class CodecWriter:
    """Writes a container, a few items at a time, in bounded memory.

    A path is written atomically: under another name in the same folder, and renamed by :meth:`close`. If the process
    dies before, what was there is still there. A pipe or device is written to as it comes, and ``-`` is the standard
    output. A chunk with values outside the model's alphabets, or one that DEFLATE makes smaller, is stored without the
    model.

    Args:
        target: a path, or a binary file that can be written to.
        coder: the model.
        layout: of the items.
        chunk_items: items of a chunk, which are decoded together; about 512 kB by default.
        lanes: rows that are coded in lock step; at most 16 by default, fewer for small chunks.
        model: bytes of a model file to carry along.
        note: anything that JSON can hold, to carry along; :meth:`CodecReader.note` returns it.
        verify: decodes each chunk before it is written and compares it with its items, which takes as long again.

    Raises:
        TypeError: a target, a number or a note of another kind.
        ValueError: numbers below one; a layout of another number of variables than the coder.

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
        """Header, note and model, once the bytes of the first chunk's items are there."""
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
            TypeError, ValueError: another dtype or shape; closed before.
            CorruptStreamError: with ``verify``, what was coded does not decode to the items.
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
        """Writes the full chunks that wait, and a shorter last one if ``whole``."""
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
        """Ends the file; one that was given as a path appears now. A second call does nothing."""
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
        """Gives up: removes what was written so far under the other name."""
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
    """Whether DEFLATE might give less than ``size`` bytes, by a look at an eighth: all would take as long as coding."""
    if size >= len(plain) or len(plain) <= WHOLE:
        return True
    piece, step = len(plain) // 32, len(plain) // PIECES
    sample = b"".join(plain[i * step : i * step + piece] for i in range(PIECES))
    return len(zlib.compress(sample, 1)) * len(plain) < MARGIN * size * len(sample)
