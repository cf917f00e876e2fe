"""Helpers of the commands on files. This module imports torch, which takes seconds; ``--help`` does not need it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from .._core import outputs
from ..codec import CodecReader, Damage, PCCodec, classics, format
from ..codec import open as open_container
from . import _sources as sources
from ._targets import about, claim, tell

MOST_WHOLE = 4096  # values of an image that is modeled as a whole by itself
TILE = (8, 8)


def usual_tile(items: sources.Source) -> tuple[int, int] | None:
    """The tile size for images that are too large to be modeled as a whole; None for other items."""
    variables = math.prod(items.shape)
    if items.note.get("kind") != "images" or variables <= MOST_WHOLE:
        return None
    said = f"images of {variables:,} values are cut into tiles of {TILE[0]}x{TILE[1]}"
    print(f"{said}: a model of a whole one would have as many variables (--tile HxW takes others)", file=sys.stderr)
    return TILE


def tile_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--tile: expected two sizes such as 32x32, got '{text}'")
    return int(sides[0]), int(sides[1])


def _per_value(size: int, values: int) -> str:
    return f"{8 * size / values:.4f} bits a value" if values else "no values"


def size_beside(size: int, values: int, before: int) -> str:
    """Text that compares a size with that of the files on disk."""
    if before >= size:
        ratio = f"{before / size:.2f} times smaller"
    else:
        ratio = f"{size / before:.2f} times larger" if before else "larger"
    return f"{size:,} bytes, {_per_value(size, values)}, {ratio} than the {before:,} bytes read"


def compare(target: Path, items: sources.Source, ours: int, model: int, values: int) -> None:
    """Compares with other compressors, and tells from how many such items on ours plus its model is the smallest."""
    tell(target, "\nother compressors, of the files as they are:")
    found = {"the files as they are": items.disk_bytes}
    if items.files:
        content = b"".join(path.read_bytes() for path in items.files)
        found |= {name: len(compress(content)) for name, compress in classics.general().items()}
    if not items.files or items.note.get("kind") == "images":
        data = items.whole().tobytes()
        found |= {f"{name}, values alone": len(compress(data)) for name, compress in classics.general().items()}
    if items.note.get("kind") != "table":
        found |= classics.image_sizes(items.whole())
    for name, size in sorted(found.items(), key=lambda pair: pair[1]):
        gain = (size - ours) / items.count
        even = f"the model pays from {math.ceil(model / gain):,} items on" if gain > 0 else "smaller than ours"
        tell(target, f"  {name:30} {size:>14,} bytes  {_per_value(size, values)}  {even}")


def tell_lost(damage: Damage) -> None:
    for _, first, end, reason in damage.chunks:
        print(f"items {first} to {end - 1} are lost: {reason}", file=sys.stderr)


def content_of(path: Path) -> Path | bytes:
    """The content of a file or a pipe."""
    return sources.piped(path) if outputs.is_stream(path) else path


def loaded(model: Path) -> PCCodec:
    """Loads a model. Errors name its file."""
    with about(model):
        return PCCodec.load(model)


@contextmanager
def opened(
    source: Path, model: Path | None, recover: bool = False, content: Path | bytes | None = None
) -> Iterator[CodecReader]:
    """Opens a compressed file. Errors name it or the model's file.

    Args:
        source: the file.
        model: its model's file, unless it carries the model.
        recover: whether to read a file whose end is lost.
        content: of ``source``, if it was read already: a pipe can be read only once.
    """
    codec = None if model is None else loaded(model)
    with about(source):
        content = content_of(source) if content is None else content
        with (codec.open if codec is not None else open_container)(content, recover=recover) as reader:
            yield reader


def model_note(reader: CodecReader, model: Path | None) -> dict[str, Any]:
    return (PCCodec.from_bytes(reader.model()) if model is None else loaded(model)).note


def start_of(content: Path | bytes) -> bytes:
    if isinstance(content, bytes):
        return content[:8]
    with content.open("rb") as file:
        return file.read(8)


def progressing(reader: CodecReader) -> Iterator[np.ndarray]:
    with tqdm(total=len(reader), unit="item", disable=None, desc="decompress") as bar:
        for block in reader.chunks():
            yield block
            bar.update(len(block))


def checked_at_the_end(blocks: Iterable[np.ndarray], target: Path, force: bool) -> Iterator[np.ndarray]:
    """Checks again, at the end, that the file may be written: another command may have written it meanwhile."""
    yield from blocks
    if not target.is_dir():
        claim(target, [], force)


def model_facts(data: bytes) -> dict[str, str]:
    codec = PCCodec.from_bytes(data)
    sizes = codec.program.categories
    low, high = min(sizes), max(sizes)
    return {
        "model": codec.model_id.hex(),
        "bytes": f"{len(data):,}",
        "variables": str(codec.program.variables),
        "values of each": str(low) if low == high else f"{low} to {high}",
        "code 0 is": str(codec.offset),
        "tile": "x".join(map(str, codec.tile)) if codec.tile else "none",
        "of": str(codec.note.get("kind", "arrays")),
    }


def container_facts(file: BinaryIO) -> dict[str, str]:
    size = format.Header.size(file.read(format.PREFIX_BYTES))
    file.seek(0)
    header = format.Header.unpack(file.read(size))
    unread: Any = SimpleNamespace(model_id=header.model_id, categories=header.categories)
    with CodecReader(file, unread, recover=True) as reader:
        layout, values = reader.layout, len(reader) * math.prod(reader.layout.shape)
        shape = " x ".join(map(str, layout.shape)) or "one value"
        chunks = len(reader.items_of_chunks)
        where = f"in the file, {header.model_bytes:,} bytes" if header.model_bytes else "not in the file"
        return {
            "model": f"{header.model_id.hex()}, {where}",
            "bytes": f"{reader.file_bytes:,}, {_per_value(reader.file_bytes, values)}",
            "items": f"{len(reader):,} of {shape}, {np.dtype(layout.dtype)}",
            "tile": "x".join(map(str, layout.tile)) if layout.tile else "none",
            "code 0 is": str(layout.offset),
            "chunks": f"{chunks:,} of {header.chunk_items:,} items",
            "lanes": str(header.lanes),
            "of": str(reader.note().get("kind", "arrays")),
            "end": "lost; --recover finds the items" if reader.recovered else "there; `test` checks the items",
        }
