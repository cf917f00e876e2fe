"""Converts images to items for the codec and back. Reads headers itself, because decoders hide frames and bits."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from .._core import outputs
from .._core.errors import CorruptStreamError
from ._source import Source

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif", ".jpg", ".jpeg")
MODES = {
    "L": "L", "RGB": "RGB", "RGBA": "RGBA", "LA": "LA", "I;16": "I;16", "I;16B": "I;16", "1": "L", "P": "RGB",
    "PA": "RGBA",
}  # fmt: skip
ALPHA = {"L": "LA", "RGB": "RGBA", "LA": "LA", "RGBA": "RGBA"}  # of an image with one color, or some, transparent
CHANNELS = {"1": 1, "L": 1, "P": 1, "I;16": 1, "I;16B": 1, "LA": 2, "PA": 2, "RGB": 3, "RGBA": 4}
ORIENTATION = 0x112  # tag of Exif
EXIF_IN = {"eXIf", "tEXt", "zTXt", "iTXt"}  # a PNG's chunks that may have it
MOST_NAME = 255  # bytes of a file's name
MALFORMED = (  # what Pillow raises for damaged images
    OSError, SyntaxError, EOFError, struct.error, zlib.error, ArithmeticError, MemoryError, LookupError, TypeError,
    ValueError, AttributeError,
)  # fmt: skip


def read_images(folder: Path, paths: list[Path]) -> Source:
    """Reads images of one size as items.

    Raises:
        ValueError: there are no images, they differ in size or mode, or they would not come back unchanged.
    """
    if not paths:
        raise ValueError(f"'{folder}': no images in it ({', '.join(PICTURES)})")
    names = [path.name for path in paths]
    try:
        png_names(names)
    except ValueError as error:
        raise ValueError(f"'{folder}': {error}") from None
    turns = [_inspected(path) for path in paths]
    first = _pixels(paths[0])

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(paths), size):
            yield np.stack([_alike(_pixels(path), path) for path in paths[start : start + size]])

    def _alike(picture: np.ndarray, path: Path) -> np.ndarray:
        if picture.shape != first.shape or picture.dtype != first.dtype:
            got = f"{picture.shape} {picture.dtype}"
            raise ValueError(f"'{path}': expected {first.shape} {first.dtype} as '{paths[0].name}' has, got {got}")
        return picture

    note = {"kind": "images", "names": names} | ({"orientations": turns} if any(turn != 1 for turn in turns) else {})
    return Source(len(paths), first.shape, first.dtype, blocks, lambda: next(blocks(len(paths))), note, files=paths)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an image with Pillow. Any error of a damaged image becomes a ValueError with the path."""
    image = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image.DecompressionBombWarning)  # twice as many pixels are an error
            with image.open(path) as picture:
                yield picture
    except image.DecompressionBombError as error:
        hint = "cut it into smaller images"
        raise ValueError(f"'{path}': {error}. Hint: {hint}") from None
    except MALFORMED as error:
        if isinstance(error, (OSError, ValueError)) and str(path) in str(error):
            raise
        raise ValueError(f"'{path}': a damaged image ({error})") from None


def _inspected(path: Path) -> int:
    """The orientation of an image, 1 to 8.

    Raises:
        ValueError: the image has content that 8-bit pixels (16-bit in gray) would not keep.
    """
    with _opened(path) as picture:
        what = _unkept(picture, path)
        if what is None and getattr(picture, "n_frames", 1) > 1:
            what = f"one of {picture.n_frames} frames or pages. Hint: save each as an image"
        if what is None and picture.mode not in MODES and (picture.mode, picture.format) != ("I", "PPM"):
            what = f"mode {picture.mode}"
        if what is not None:
            raise ValueError(f"'{path}': expected one image of 8 bits a channel or 16-bit gray, got {what}")
        if picture.format == "TIFF" or (picture.format == "PNG" and not EXIF_IN & set(dict(_png_chunks(path)))):
            return 1  # Pillow turns a TIFF itself; a PNG would be decoded for nothing
        turn = picture.getexif().get(ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _unkept(picture: Any, path: Path) -> str | None:
    """Content that pixels would not keep, according to the file's header; None if there is none."""
    if picture.format == "PNG":
        return _unkept_of_png(path)
    if picture.format == "TIFF":
        return _unkept_of_tiff(picture)
    if picture.format == "PPM":
        return _unkept_of_pnm(picture, path)
    return None


def _unkept_of_pnm(picture: Any, path: Path) -> str | None:
    most = _maxval(path)
    if most not in (None, 255) and (most, picture.mode) != (65535, "I"):
        return f"a largest value of {most}"
    (decoder, _, start, _), *_ = picture.tile
    if decoder != "raw":  # numbers in text: there is one image
        return None
    width, height = picture.size
    line = -(-width // 8) if most is None else width * len(picture.getbands()) * (1 if most == 255 else 2)
    with path.open("rb") as file:
        file.seek(start + line * height)
        behind = file.read()
    return f"{len(behind)} bytes more behind it, perhaps a second image" if behind.strip() else None


def _unkept_of_png(path: Path) -> str | None:
    chunks = dict(_png_chunks(path))
    header = chunks.get("IHDR", b"")
    if len(header) != 13:
        return "no header"
    depth, color = header[8], header[9]
    if depth == 16 and color != 0:
        return f"16 bits a channel in {'RGB' if color == 2 else 'an image with transparency'}"
    if depth != 8 and color == 0 and "tRNS" in chunks:
        return f"{depth}-bit gray with a transparent value"
    return "an animation" if "acTL" in chunks else None


def _png_chunks(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names of a PNG's chunks, and the content of short chunks."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", head)
            yield name.decode("latin-1"), file.read(size) if size <= 1024 else b""
            file.seek((4 if size <= 1024 else size + 4), os.SEEK_CUR)


def _unkept_of_tiff(picture: Any) -> str | None:
    tags = picture.tag_v2
    depths, photometric = tags.get(258, (1,)), tags.get(262, 0)
    wanted = (16,) if picture.mode.startswith("I;16") else None
    fine = tuple(depths) == wanted if wanted else all(depth <= 8 for depth in depths)
    if not fine or any(kind != 1 for kind in tags.get(339, (1,))):
        return f"{', '.join(map(str, depths))} bits a channel, of kind {tags.get(339, (1,))}"
    if wanted and photometric != 1:
        return "16-bit gray where 0 is white"
    if any(color % 257 and color % 256 for color in tags.get(320, ())):  # Pillow takes the upper 8 bits
        return "a palette with colors of 16 bits"
    if 1 in tags.get(338, ()):
        return "colors that are multiplied by their transparency"
    if picture.mode in CHANNELS and tags.get(277, 1) != CHANNELS[picture.mode]:
        return f"{tags.get(277, 1)} channels, of which {picture.mode} shows {CHANNELS[picture.mode]}"
    return None


def _maxval(path: Path) -> int | None:
    """The largest value that the header of a PGM or PPM allows; None for images of one bit."""
    with path.open("rb") as file:
        text = b"\n".join(line.partition(b"#")[0] for line in file.read(4096).split(b"\n"))
    words = text.split()[:4]
    if words[0] in (b"P1", b"P4"):
        return None
    return int(words[3]) if len(words) == 4 and words[3].isdigit() else -1


def _pixels(path: Path) -> np.ndarray:
    """An image's pixels (H, W) or (H, W, channels)."""
    with _opened(path) as picture:
        if picture.mode in ("I", "I;16B"):  # 16 bits, in a PGM or a big-endian TIFF: Pillow's convert clips them to 255
            return np.array(picture).astype(np.uint16)
        mode = MODES[picture.mode]
        picture.load()  # a PNG may name transparent colors anywhere before its pixels
        if "transparency" in picture.info or picture.has_transparency_data:
            mode = ALPHA[mode]
        return np.ascontiguousarray(np.array(picture.convert(mode)).astype(np.uint16 if mode == "I;16" else np.uint8))


def pillow() -> Any:
    """Pillow's module ``Image``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("images need Pillow: pip install 'probkernels[images]'") from None
    return Image


def png_names(names: list[str]) -> list[str]:
    """The file that each image comes back as: with the ending .png, added to the whole name where some would be alike.

    Raises:
        ValueError: a name that is no file's in a folder, is there twice, or becomes too long.
    """
    wrong = [name for name in names if not _is_plain(name)]
    if wrong or len(set(names)) < len(names):
        raise ValueError(f"expected different names of files, got {', '.join(map(repr, wrong[:1] or names[:2]))}")
    short = [Path(name).with_suffix(".png").name for name in names]
    found = short if len(set(short)) == len(short) else [f"{name}.png" for name in names]
    for name in found:
        if len(os.fsencode(name)) > MOST_NAME:
            raise ValueError(f"expected names of at most {MOST_NAME} bytes with the ending .png, got '{name[:40]}...'")
    return found


def _is_plain(name: str) -> bool:
    """Whether ``name`` names a file directly in a folder."""
    return name not in ("", ".", "..") and Path(name).name == name and "\0" not in name


def write_images(path: Path, blocks: Iterable[np.ndarray], note: dict[str, Any], kept: np.ndarray) -> None:
    """Writes a folder of .png, or one .png if there is one image and ``path`` is called so.

    Raises:
        ValueError: the items are not images, the folder is not empty, or ``path`` is one file for several images.
        CorruptStreamError: the note is invalid.
    """
    if note.get("kind") != "images":
        raise ValueError(f"'{path}': the items are no images. Hint: write an .npy")
    names, turns = _noted(note, kept)
    if path.suffix.lower() in PICTURES and not path.is_dir():
        if path.suffix.lower() != ".png" or len(kept) != 1:
            raise ValueError(f"'{path}': expected a folder, or an .png for one image, got {len(kept)} images")
        with outputs.replacing(path) as file:
            _save(next(picture for block in blocks for picture in block), file, turns[int(kept[0])])
        return
    check_folder(path)
    folder = Path(os.path.realpath(path))
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:100]}."))
    inner = fresh / "made"  # mkdtemp makes folders that nobody else may read
    try:
        inner.mkdir()
        places = iter(kept.tolist())
        for picture in (picture for block in blocks for picture in block):
            place = next(places)
            with (inner / names[place]).open("xb") as file:  # where A.png is a.png, the first one stays
                _save(picture, file, turns[place])
        if folder.exists():
            inner.chmod(folder.stat().st_mode & 0o7777)
            folder.rmdir()
        inner.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _noted(note: dict[str, Any], kept: np.ndarray) -> tuple[list[str], list[int]]:
    """Names and orientations of the images."""
    names, turns = note.get("names"), note.get("orientations")
    if not is_texts(names) or len(names) <= max(kept, default=-1):
        raise CorruptStreamError("note: impossible names of images")
    turns = [1] * len(names) if turns is None else turns
    if not isinstance(turns, list) or len(turns) != len(names) or any(turn not in range(1, 9) for turn in turns):
        raise CorruptStreamError("note: impossible orientations of images")
    try:
        return png_names(names), turns
    except ValueError as error:
        raise CorruptStreamError(f"note: impossible names of images: {error}") from None


def check_folder(path: Path) -> None:
    """Raises ValueError unless a folder of images can be written to this path."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"'{path}': expected a new or empty folder")
    if not path.exists() and not Path(os.path.realpath(path)).parent.is_dir():
        raise ValueError(f"'{path}': there is no folder '{path.parent}'")


def _save(picture: np.ndarray, file: BinaryIO, turn: int) -> None:
    image, settings = pillow(), {}
    if turn != 1:
        settings["exif"] = image.Exif()
        settings["exif"][ORIENTATION] = turn
    image.fromarray(picture).save(file, format="PNG", **settings)


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether a value read from JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
