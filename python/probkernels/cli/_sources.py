"""Reads arrays, folders of images and tables as items for the codec, and writes them back."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._core import outputs
from .._core.errors import CorruptStreamError
from ..codec import Vocabulary
from . import _tables
from ._arrays import ARRAYS, from_bytes, read_npy, read_npz, write_npy, write_npz
from ._images import PICTURES, check_folder, is_texts, read_images, write_images
from ._source import Source, of_array

__all__ = ["Source", "check_folder", "piped", "read", "vocabulary_of", "write"]
TABLES = {".csv": ",", ".tsv": "\t"}
MOST_SHOWN = 5  # names in a message


def piped(path: Path) -> bytes:
    """Reads everything from a pipe; ``-`` is standard input."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def read(path: Path, key: str | None = None, model_note: dict[str, Any] | None = None, most: int = 256) -> Source:
    """Reads the items of an array file, a folder of images or a table.

    Args:
        path: .npy, .npz, .csv, .tsv, an image, or a folder of images; ``-`` or a pipe with an .npy or .npz.
        key: the array of an .npz that has several.
        model_note: of the model that is to code them; None to make a model's vocabulary from the table itself, of the
            ``most`` commonest values of each column.

    Raises:
        ValueError: the file has another type, or images or rows differ in form.
        OSError: there is no such file.
    """
    kind = path.suffix.lower()
    try:
        if str(path) == "-" or outputs.is_stream(path):
            return from_bytes(piped(path), key, path)
        if key is not None and kind != ".npz":
            raise ValueError(f"--key: expected none, as '{path}' is no .npz, got {key}")
        if path.is_dir():
            return _folder(path)
        if kind in PICTURES:
            return read_images(path, [path])
        if kind == ".npy":
            return read_npy(path)
        if kind == ".npz":
            return read_npz(path, key)
        if kind in TABLES:
            return _table(path, model_note, most)
    except csv.Error as error:
        raise ValueError(f"'{path}': {error}") from None
    kinds = ", ".join((*ARRAYS, *TABLES, *PICTURES))
    raise ValueError(f"'{path}': expected a folder of images or one of {kinds}")


def _folder(path: Path) -> Source:
    """The images in a folder. Tells what else is in it, which nothing keeps."""
    entries = sorted(path.iterdir())
    images = [entry for entry in entries if entry.suffix.lower() in PICTURES and not entry.is_dir()]
    items = read_images(path, images)
    kept = set(images)
    others = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if entry not in kept]
    if others:
        shown = ", ".join(others[:MOST_SHOWN]) + (", ..." if len(others) > MOST_SHOWN else "")
        print(f"'{path}': left out, as no images by their names: {len(others):,} ({shown})", file=sys.stderr)
    return items


def _table(path: Path, model_note: dict[str, Any] | None, most: int) -> Source:
    """A table's codes; with a model, one that has no certain rows is kept as it is."""
    ending = path.suffix.lower()
    text = _tables.text_of(path)
    known = None if model_note is None else vocabulary_of(model_note)
    found = _tables.parse(text, TABLES[ending])
    note: dict[str, Any] = {"kind": "table", "ending": ending}
    if found is None:
        if known is None:
            raise ValueError(f"'{path}': {_tables.why_not(text, TABLES[ending])}")
        none = np.empty((0, len(known.values)), np.uint16)
        return of_array(none, note | {"raw": _tables.pack_raw(text)}, [path])
    (names, *rows), style = found
    if known is None and not rows:
        raise ValueError(f"'{path}': expected rows after the names in line 1, got none")
    vocabulary = Vocabulary.of(rows, most) if known is None else known
    if len(vocabulary.values) != len(names):
        got = f"{len(names)} separated by {style.delimiter!r}"
        raise ValueError(f"'{path}': expected {len(vocabulary.values)} columns, as the model has, got {got}")
    codes, others = vocabulary.encode(rows)
    gaps = np.diff([-1, *others]).tolist()
    note |= {"names": names, "gaps": gaps, "others": list(others.values()), "style": style.note()}
    return replace(of_array(codes, note, [path]), model_note={"kind": "table", "values": vocabulary.values})


def vocabulary_of(model_note: dict[str, Any]) -> Vocabulary:
    """The vocabulary that a model carries.

    Raises:
        ValueError: it carries none.
    """
    values = model_note.get("values")
    if model_note.get("kind") != "table" or not isinstance(values, list) or not all(map(is_texts, values)):
        raise ValueError("the model is not of tables")
    return Vocabulary(values)


def write(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any], count: int,
          note: dict[str, Any], model_note: dict[str, Any], kept: np.ndarray) -> None:  # fmt: skip
    """Writes items to an array file, or as the images or the table that they were; whole or not at all.

    Args:
        path: .npy or .npz for any items, .csv or .tsv for tables; a pipe or ``-`` takes a .csv or an .npy;
            another name is a new folder for images, or an .png for one.
        blocks: arrays (n, *shape).
        shape: of an item.
        dtype: of the items.
        count: how many there are.
        note: the container's.
        model_note: the model's.
        kept: (count,) which of the container's items they are.

    Raises:
        ValueError: items that cannot be written in that form, or a folder that has something in it.
        CorruptStreamError: an impossible note.
        OSError: it cannot be written.
    """
    kind = path.suffix.lower()
    if "raw" in note and not outputs.is_stream(path) and kind != note.get("ending"):
        raise ValueError(f"'{path}': the table was kept as its bytes. Hint: write a file that ends in {note['ending']}")
    if kind in TABLES or (outputs.is_stream(path) and note.get("kind") == "table"):
        _write_table(path, blocks, note, model_note, kept)
    elif kind == ".npz":
        write_npz(path, blocks, shape, dtype, note.get("key"))
    elif kind == ".npy" or outputs.is_stream(path):
        write_npy(path, blocks, shape, dtype, count)
    else:
        write_images(path, blocks, note, kept)


def _write_table(
    path: Path, blocks: Iterable[np.ndarray], note: dict[str, Any], model_note: dict[str, Any], kept: np.ndarray
) -> None:
    if note.get("kind") != "table":
        raise ValueError(f"'{path}': the items are no table. Hint: write an .npy")
    if "raw" in note:
        outputs.write_bytes(path, _tables.unpack_raw(note["raw"]))
        return
    names, gaps, others = (note.get(name) for name in ("names", "gaps", "others"))
    if not (
        is_texts(names) and is_texts(others) and isinstance(gaps, list) and len(gaps) == len(others)
        and all(type(gap) is int and 0 < gap < 2**48 for gap in gaps)
    ):  # fmt: skip
        raise CorruptStreamError("note: impossible names or values of a table")
    vocabulary = vocabulary_of(model_note)
    width = len(vocabulary.values)
    place_of_row = {int(row): place for place, row in enumerate(kept)}
    rare: dict[int, str] = {}
    for at, value in zip((np.cumsum(gaps, dtype=np.int64) - 1).tolist(), others, strict=True):
        if at // width in place_of_row:
            rare[place_of_row[at // width] * width + at % width] = value
    codes = np.concatenate([np.empty((0, width), np.uint16), *blocks])
    noted = note.get("ending") if note.get("ending") in TABLES else ".csv"
    ending = path.suffix.lower() if path.suffix.lower() in TABLES else str(noted)
    same = note.get("ending", ending) == ending
    style = _tables.style_of(note.get("style") if same else None, TABLES[ending]).of_rows(kept.tolist(), width)
    outputs.write_bytes(path, style.write([names, *vocabulary.decode(codes, rare)]).encode())
