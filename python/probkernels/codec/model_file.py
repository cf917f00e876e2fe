"""Model files (.pcm): the compressed arrays of a compiled circuit."""

from __future__ import annotations

import json
import lzma
import math
import struct
import zlib

import numpy as np

from .._core.errors import CorruptStreamError
from . import format as parts
from .program import DTYPES

MAGIC = b"\x89PCM\r\n\x1a\n"
VERSION = 1
PREFIX = struct.Struct("<8sHHIQ")  # magic, version, 0, bytes of the description, bytes of the arrays once decompressed
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**24}]
MOST_JSON = 2**24  # bytes of the description once decompressed
MEMORY = 2**27  # of the decompressor


def pack(arrays: dict[str, np.ndarray], facts: dict[str, object]) -> bytes:
    """The bytes of a model file. JSON must be able to hold ``facts``."""
    tables, shapes = arrays["tables"], arrays["shapes"]
    stored = {name: arrays[name].tobytes() for name in DTYPES}
    stored["tables"] = _planes(_differences(tables, shapes))
    stored["weights"] = _planes(arrays["weights"].view("<u4"))
    described = json.dumps({"shapes": {name: list(arrays[name].shape) for name in DTYPES}, "facts": facts}).encode()
    described = zlib.compress(described, 9)
    plain = b"".join(stored[name] for name in DTYPES)
    packed = lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)
    return parts.sealed(PREFIX.pack(MAGIC, VERSION, 0, len(described), len(plain)) + described + packed)


def unpack(data: bytes, max_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The inverse of :func:`pack`. Allocates nothing larger than ``max_bytes``.

    Raises:
        CorruptStreamError: the file is damaged or too large.
    """
    if len(data) < PREFIX.size or data[:8] != MAGIC:
        raise CorruptStreamError("model: not a model file")
    body = parts.opened(data, "model")
    if len(body) < PREFIX.size:
        raise CorruptStreamError("model: the file ends inside its first bytes")
    _, version, zero, described, size = PREFIX.unpack(body[: PREFIX.size])
    if version != VERSION or zero:
        raise CorruptStreamError(f"model: expected version {VERSION}, got {version}")
    if size > max_bytes:
        raise CorruptStreamError(f"model: its {size} bytes are more than max_bytes={max_bytes}")
    shapes, facts = _described(body[PREFIX.size : PREFIX.size + described])
    sizes = {name: math.prod(shapes[name]) * dtype.itemsize for name, dtype in DTYPES.items()}
    if sum(sizes.values()) != size:
        raise CorruptStreamError("model: the arrays do not have the size they are said to have")
    try:
        expander = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
        plain = expander.decompress(body[PREFIX.size + described :], size + 1)
    except lzma.LZMAError as error:
        raise CorruptStreamError(f"model: {error}") from None
    if len(plain) != size:
        raise CorruptStreamError(f"model: expected {size} bytes, got {len(plain)} or more")
    return _arrays(plain, shapes, sizes), facts


def _described(data: bytes) -> tuple[dict[str, list[int]], dict[str, object]]:
    expander = zlib.decompressobj()
    try:
        text = expander.decompress(data, MOST_JSON + 1)
        found = json.loads(text if len(text) <= MOST_JSON and expander.eof else b"")
        shapes, facts = found["shapes"], found["facts"]
        right = set(shapes) == set(DTYPES) and isinstance(facts, dict)
        right = right and all(_is_shape(shape) for shape in shapes.values())
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError):
        right = False
    if not right:
        raise CorruptStreamError("model: its description cannot be read")
    return shapes, facts


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 2 and all(type(v) is int and 0 <= v < 2**40 for v in value)


def _arrays(plain: bytes, shapes: dict[str, list[int]], sizes: dict[str, int]) -> dict[str, np.ndarray]:
    found, at = {}, 0
    for name, dtype in DTYPES.items():
        piece = plain[at : at + sizes[name]]
        at += sizes[name]
        if name in ("tables", "weights"):
            piece = _joined(piece, dtype.itemsize)
        found[name] = np.frombuffer(piece, dtype).reshape(shapes[name]).copy()
    if found["shapes"].ndim != 2 or found["shapes"].shape[1] != 2 or found["tables"].ndim != 1:
        raise CorruptStreamError("model: impossible shapes")
    found["tables"] = _sums(found["tables"], found["shapes"])
    return found


def _blocks(tables: np.ndarray, shapes: np.ndarray) -> list[np.ndarray]:
    """Views of the table of each variable, (categories, units)."""
    found, at = [], 0
    for categories, units in shapes.astype(np.int64).tolist():
        if categories < 1 or units < 1 or at + categories * units > len(tables):
            raise CorruptStreamError("model: the tables do not have the size they are said to have")
        found.append(tables[at : at + categories * units].reshape(categories, units))
        at += categories * units
    return found


def _differences(tables: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Each row of a table minus the previous one, modulo 65536. The counts of a unit are smooth, so this compresses
    better."""
    return np.concatenate([
        np.diff(block, axis=0, prepend=np.zeros((1, block.shape[1]), block.dtype)).T.reshape(-1)
        for block in _blocks(tables, shapes)
    ])  # fmt: skip


def _sums(differences: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The inverse of :func:`_differences`."""
    found = differences.copy()
    for block, out in zip(_blocks(differences, shapes), _blocks(found, shapes), strict=True):
        categories, units = block.shape
        out[...] = np.cumsum(block.reshape(units, categories).T, axis=0, dtype=differences.dtype)
    return found


def _planes(values: np.ndarray) -> bytes:
    """All low bytes first, then the next bytes, and so on."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, values.itemsize).T).tobytes()


def _joined(data: bytes, size: int) -> bytes:
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(size, -1).T).tobytes()
