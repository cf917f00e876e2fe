"""Reads bytes at given offsets of a file, without a shared position that threads or forked processes could move."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._core import checks
from .._core.errors import message

Readable = str | Path | bytes | bytearray | memoryview | np.ndarray | BinaryIO


class Bytes:
    """Random access to the bytes of a path, a bytes object or a seekable binary file.

    Raises:
        TypeError: the source is none of these.
        OSError: the file cannot be read.
    """

    def __init__(self, op: str, source: Readable) -> None:
        self._lock = threading.Lock()
        self._own = isinstance(source, (str, Path))
        self._file: BinaryIO | None = None
        self._data = memoryview(b"")
        self.source: Path | bytes | None = None  # what the same can be opened from once more
        if isinstance(source, (str, Path)):
            self.source = Path(source).absolute()
            self._file = Path(source).open("rb")  # noqa: SIM115 - closed by close()
        elif isinstance(source, (bytes, bytearray, memoryview)) or _is_bytes(source):
            self._data = memoryview(bytes(source))  # type: ignore[arg-type]
            self.source = self._data.obj  # type: ignore[assignment]
        else:
            self._file = _checked(op, source)
        self._handle = _handle(self._file)
        self.size = len(self._data) if self._file is None else self._file.seek(0, io.SEEK_END)

    def read(self, at: int, size: int) -> bytes:
        """Bytes ``at`` to ``at + size``. Fewer if the file ends earlier."""
        if self._file is None:
            return bytes(self._data[at : at + size])
        if self._handle is None:
            with self._lock:
                self._file.seek(at)
                return self._file.read(size)
        parts, handle = [], self._file.fileno()  # a closed file has none: it raises
        while size > 0 and (part := os.pread(handle, min(size, 2**30), at)):
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Closes the file if this object opened it."""
        if self._own and self._file is not None:
            self._file.close()


def _is_bytes(source: object) -> bool:
    return isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 1


def _checked(op: str, source: object) -> BinaryIO:
    if not all(callable(getattr(source, name, None)) for name in ("seek", "read")):
        wanted = "a path, bytes, or a binary file that can seek"
        raise TypeError(message(op, "source", wanted, checks.describe(source)))
    if _is_text(source):
        raise TypeError(message(op, "source", "a binary file", "a text file", "open it with mode 'rb'"))
    return source  # type: ignore[return-value]


def writable(op: str, target: object) -> BinaryIO:
    """A binary file that can be written to.

    Raises:
        TypeError: anything else.
    """
    if not all(callable(getattr(target, name, None)) for name in ("write", "flush")):
        wanted = "a path, or a binary file that can be written to"
        raise TypeError(message(op, "target", wanted, checks.describe(target)))
    if _is_text(target):
        raise TypeError(message(op, "target", "a binary file", "a text file", "open it with mode 'wb'"))
    ask = getattr(target, "writable", None)
    if callable(ask) and not ask():
        raise TypeError(message(op, "target", "a file that can be written to", "one to read", "open it with mode 'wb'"))
    return target  # type: ignore[return-value]


def _is_text(file: object) -> bool:
    """Whether a file holds text; those of ``tempfile`` and ``codecs`` are of no class of their own."""
    return isinstance(file, io.TextIOBase) or hasattr(file, "encoding")


def _handle(file: BinaryIO | None) -> int | None:
    """The descriptor of a regular file, from which bytes can be read without moving its position. Else None."""
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    return raw.fileno() if isinstance(raw, io.FileIO) and hasattr(os, "pread") else None
