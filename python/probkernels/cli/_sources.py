"""Arrays, folders of images and tables as items for the codec, and back."""

from __future__ import annotations

import io
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from .._core import files
from .._core.errors import CorruptStreamError
from ..codec import Vocabulary
from . import _tables

ARRAYS, TABLES = (".npy", ".npz"), {".csv": ",", ".tsv": "\t"}
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif", ".jpg", ".jpeg")
MODES = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "LA": "LA", "I;16": "I;16", "1": "L", "P": "RGB"}


@dataclass
class Source:
    """Items that can be read a block at a time, and what must be noted down to write them back."""

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[int], Iterator[np.ndarray]]  # items at a time -> arrays (n, *shape)
    whole: Callable[[], np.ndarray]  # all items, perhaps mapped
    note: dict[str, Any] = field(default_factory=dict)
    model_note: dict[str, Any] = field(default_factory=dict)  # what a model of them must know

    @property
    def bytes(self) -> int:
        """Of all items, not compressed."""
        return self.count * math.prod(self.shape) * self.dtype.itemsize


def read(path: Path, key: str | None = None, model_note: dict[str, Any] | None = None, most: int = 256) -> Source:
    """The items of an array file, a folder of images or a table.

    Args:
        path: .npy, .npz, .csv, .tsv, an image, or a folder of images.
        key: the array of an .npz that has several.
        model_note: of the model that is to code them; None to make a model's vocabulary from the table itself, of the
            ``most`` commonest values of each column.

    Raises:
        ValueError: a file of another kind, or images or rows that are not alike.
        OSError: no such file.
    """
    kind = path.suffix.lower()
    try:
        if path.is_dir():
            return _images(path, sorted(entry for entry in path.iterdir() if entry.suffix.lower() in PICTURES))
        if kind in PICTURES:
            return _images(path, [path])
        if kind == ".npy":
            return _array(np.load(path, mmap_mode="r", allow_pickle=False))
        if kind == ".npz":
            return _member(path, key)
        if kind in TABLES:
            return _table(path, model_note, most)
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"'{path}': {error}") from None
    kinds = ", ".join((*ARRAYS, *TABLES, *PICTURES))
    raise ValueError(f"'{path}': expected a folder of images or one of {kinds}")


def _array(array: np.ndarray, note: dict[str, Any] | None = None) -> Source:
    if array.ndim == 0:
        raise ValueError("expected an array with an axis of items, got a single value")

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), size):
            yield np.asarray(array[start : start + size])

    return Source(len(array), array.shape[1:], array.dtype, blocks, lambda: array, note or {})


def _member(path: Path, key: str | None) -> Source:
    with np.load(path, allow_pickle=False) as members:
        names = list(members.files)
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise ValueError(f"'{path}': expected --key to be one of {', '.join(names)}, got {key}")
        return _array(members[key], {"key": key})


def _images(folder: Path, paths: list[Path]) -> Source:
    if not paths:
        raise ValueError(f"'{folder}': no images in it ({', '.join(PICTURES)})")
    first = _picture(paths[0])

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(paths), size):
            yield np.stack([_alike(_picture(path), path) for path in paths[start : start + size]])

    def _alike(picture: np.ndarray, path: Path) -> np.ndarray:
        if picture.shape != first.shape or picture.dtype != first.dtype:
            got = f"{picture.shape} {picture.dtype}"
            raise ValueError(f"'{path}': expected {first.shape} {first.dtype} as '{paths[0].name}' has, got {got}")
        return picture

    note = {"kind": "images", "names": [path.name for path in paths]}
    return Source(len(paths), first.shape, first.dtype, blocks, lambda: next(blocks(len(paths))), note)


def _picture(path: Path) -> np.ndarray:
    """An image's pixels (H, W) or (H, W, channels)."""
    with _pillow().open(path) as picture:
        if picture.mode not in MODES:
            raise ValueError(f"'{path}': expected an image of 8 bits a channel or 16-bit grey, got mode {picture.mode}")
        return np.array(picture.convert(MODES[picture.mode]))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("images need Pillow: pip install 'probkernels[images]'") from None
    return Image


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
        return _array(none, note | {"raw": _tables.pack_raw(text)})
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
    return replace(_array(codes, note), model_note={"kind": "table", "values": vocabulary.values})


def vocabulary_of(model_note: dict[str, Any]) -> Vocabulary:
    """The vocabulary that a model carries.

    Raises:
        ValueError: it carries none.
    """
    values = model_note.get("values")
    if model_note.get("kind") != "table" or not isinstance(values, list) or not all(map(_is_texts, values)):
        raise ValueError("the model is not of tables")
    return Vocabulary(values)


def write(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any], count: int,
          note: dict[str, Any], model_note: dict[str, Any], kept: np.ndarray) -> None:  # fmt: skip
    """Writes items to an array file, or as the images or the table that they were; whole or not at all.

    Args:
        path: .npy or .npz for any items, .csv or .tsv for tables; another name is a new folder for images.
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
    if "raw" in note and kind != note.get("ending"):
        raise ValueError(f"'{path}': the table was kept as its bytes. Hint: write a file that ends in {note['ending']}")
    if kind in TABLES:
        _write_table(path, blocks, note, model_note, kept)
    elif kind == ".npz":
        key, file = note.get("key", "items"), io.BytesIO()
        array = np.concatenate([np.empty((0, *shape), dtype), *blocks])
        np.savez_compressed(file, allow_pickle=False, **{key if isinstance(key, str) else "items": array})
        files.write_bytes(path, file.getvalue())
    elif kind == ".npy":
        _write_array(path, blocks, shape, dtype, count)
    else:
        _write_images(path, blocks, note, kept)


def _write_array(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any], count: int
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *shape)}
    with files.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())


def _write_table(
    path: Path, blocks: Iterable[np.ndarray], note: dict[str, Any], model_note: dict[str, Any], kept: np.ndarray
) -> None:
    if note.get("kind") != "table":
        raise ValueError(f"'{path}': the items are no table. Hint: write an .npy")
    if "raw" in note:
        files.write_bytes(path, _tables.unpack_raw(note["raw"]))
        return
    names, gaps, others = (note.get(name) for name in ("names", "gaps", "others"))
    if not (
        _is_texts(names) and _is_texts(others) and isinstance(gaps, list) and len(gaps) == len(others)
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
    ending = path.suffix.lower()
    same = note.get("ending", ending) == ending
    style = _tables.style_of(note.get("style") if same else None, TABLES[ending])
    files.write_bytes(path, style.write([names, *vocabulary.decode(codes, rare)]).encode())


def _write_images(folder: Path, blocks: Iterable[np.ndarray], note: dict[str, Any], kept: np.ndarray) -> None:
    names = note.get("names")
    if note.get("kind") != "images":
        raise ValueError(f"'{folder}': the items are no images. Hint: write an .npy")
    if not _is_texts(names) or len(names) <= max(kept, default=-1) or not all(map(_is_plain, names)):
        raise CorruptStreamError("note: impossible names of images")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"'{folder}': expected a new or empty folder")
    image, places = _pillow(), iter(kept.tolist())
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for block in blocks:
            for picture in block:
                target = fresh / _as_png(names, next(places))
                image.fromarray(picture).save(target)
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)  # mkdtemp makes folders that nobody else may read
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _as_png(names: list[str], place: int) -> str:
    """An image's name with the ending .png, unless that would be another's name too."""
    name = Path(names[place]).with_suffix(".png").name
    alike = sum(Path(other).with_suffix(".png").name == name for other in names)
    return name if alike == 1 else f"{names[place]}.png"


def _is_plain(name: str) -> bool:
    """Whether it names a file in a folder, and neither the folder nor one elsewhere."""
    return name != "" and Path(name).name == name and not name.startswith(".") and "\0" not in name and "\\" not in name


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
