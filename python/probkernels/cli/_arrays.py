"""Array files as items for the codec, and back."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._core import outputs
from ._source import Source, of_array

ARRAYS = (".npy", ".npz")
MAGIC = b"\x93NUMPY"
MALFORMED = (  # what NumPy and zipfile raise for files that are none of theirs
    ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, EOFError, OverflowError, MemoryError,
    RuntimeError, RecursionError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        with np.errstate(over="ignore"):  # of impossible shapes, which are refused
            yield
    except MALFORMED as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"'{path}': expected an array file of NumPy, got a damaged one or another ({said})") from None


def read_npy(path: Path) -> Source:
    """The items of an .npy file, memory-mapped.

    Raises:
        ValueError: there is no such file, or it has data behind the array, which would be lost.
    """
    with _sound(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise ValueError(f"'{path}': expected an .npy, got an .npz under its name. Hint: rename it")
    behind = os.path.getsize(path) - array.offset - array.nbytes
    if behind:
        raise ValueError(f"'{path}': expected one array, got {behind} bytes more behind it, which would be lost")
    return _named(path, array, {})


def from_bytes(data: bytes, key: str | None, name: Path) -> Source:
    """The items of an .npy or .npz that was read from a pipe.

    Raises:
        ValueError: the bytes are neither an .npy nor an .npz.
    """
    if data[:2] == b"PK":
        return read_npz(name, key, io.BytesIO(data))
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"'{name}': expected an .npy or .npz in a pipe, got {data[:8]!r}. Hint: give the file's name")
    if key is not None:
        raise ValueError(f"--key: expected none, as '{name}' is no .npz, got {key}")
    file = io.BytesIO(data)
    with _sound(name):
        array = np.load(file, allow_pickle=False)
    if file.tell() != len(data):
        raise ValueError(f"'{name}': expected one array, got {len(data) - file.tell()} bytes more behind it")
    return _named(name, array, {}, files=False)


def read_npz(path: Path, key: str | None, file: BinaryIO | None = None) -> Source:
    """The items of an array in an .npz.

    Raises:
        ValueError: the file is damaged, it has no such array, or it has several arrays and no key is given.
    """
    with _sound(path):
        members = np.load(path if file is None else file, allow_pickle=False)
    if not isinstance(members, np.lib.npyio.NpzFile):
        raise ValueError(f"'{path}': expected an .npz, got an .npy under its name. Hint: rename it")
    with members:
        names = list(members.files)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"'{path}': expected arrays of different names, got {', '.join(names) or 'none'}")
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"'{path}': expected --key to be one of {', '.join(names)}, got {key}")
        archive: Any = members.zip
        name = key if key in archive.namelist() else f"{key}.npy"
        with _sound(path), archive.open(name) as member:
            is_array = member.peek(len(MAGIC))[: len(MAGIC)] == MAGIC
            array = np.lib.format.read_array(member, allow_pickle=False) if is_array else None
            behind = len(member.read())
    if array is None:
        raise ValueError(f"'{path}': expected '{key}' to be an array, got a file of another kind")
    if behind:
        raise ValueError(f"'{path}': expected one array in '{key}', got {behind} bytes more behind it")
    return _named(path, array, {"key": key}, files=file is None)


def _named(path: Path, array: np.ndarray, note: dict[str, Any], files: bool = True) -> Source:
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        hints = {
            "b": "save array.astype(np.uint8)",
            "u": "save array.astype(np.int64) if all fit",
            "f": "quantize them",
        }
        hint = hints.get(array.dtype.kind, "save whole numbers, each field by itself")
        raise ValueError(f"'{path}': expected integers of at most 64 bits, got {array.dtype}. Hint: {hint}")
    try:
        return of_array(array, note, [path] if files else [])
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None


def write_npy(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any], count: int
) -> None:
    """Writes items (count, *shape), some at a time."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *shape)}
    with outputs.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())


def write_npz(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any], key: object
) -> None:
    """Writes items as one array under any name; ``np.savez`` would take some names for its own arguments."""
    array = np.concatenate([np.empty((0, *shape), dtype), *blocks])
    name = key if isinstance(key, str) else "items"
    with (
        outputs.replacing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, array, allow_pickle=False)
