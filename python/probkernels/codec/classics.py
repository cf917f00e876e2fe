"""Sizes that general and image compressors reach, for comparison."""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Compress = Callable[[bytes], bytes]
ToFile = Callable[[np.ndarray], bytes]
MOSAIC, EACH = "all in one image", "one file an image"


def sizes(items: np.ndarray, *, images: bool = True) -> dict[str, int]:
    """Bytes that items (N, ...) take with each compressor that is installed.

    General compressors run at their best level on the whole array. Image compressors run if the items are 8-bit images
    (N, H, W[, 3]): once on all images in one mosaic and once on each image.
    """
    plain = np.ascontiguousarray(items).tobytes()
    found = {name: len(compress(plain)) for name, compress in general().items()}
    return found | image_sizes(items) if images else found


def image_sizes(items: np.ndarray) -> dict[str, int]:
    """Bytes that 8-bit images (N, H, W[, 3]) take in image formats. Empty for other items."""
    found = {}
    if len(items) and _are_images(items):
        for name, to_file in image_formats().items():
            found[f"{name}, {MOSAIC}"] = len(to_file(mosaic(items)))
            found[f"{name}, {EACH}"] = sum(len(to_file(image)) for image in items)
    return found


def general() -> dict[str, Compress]:
    """General compressors: those of the standard library, and brotli and zstd if installed."""
    found: dict[str, Compress] = {
        "zlib -9": lambda data: zlib.compress(data, 9),
        "bzip2 -9": lambda data: bz2.compress(data, 9),
        "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    brotli, zstandard = _module("brotli"), _module("zstandard")
    if brotli:
        found["brotli -11"] = lambda data: brotli.compress(data, quality=11)
    if zstandard:
        found["zstd -19"] = lambda data: zstandard.ZstdCompressor(level=19).compress(data)
    return found


def image_formats() -> dict[str, ToFile]:
    """Lossless encoders of an image (H, W[, 3]) uint8: PNG and WebP with Pillow, JPEG XL with imagecodecs."""
    found: dict[str, ToFile] = {}
    pillow, codecs = _module("PIL.Image"), _module("imagecodecs")
    if pillow:
        found["PNG"] = lambda image: _saved(pillow, image, format="PNG", optimize=True)
        found["WebP"] = lambda image: _saved(pillow, image, format="WEBP", lossless=True, quality=100, method=6)
    if codecs:
        found["JPEG XL"] = lambda image: codecs.jpegxl_encode(np.ascontiguousarray(image), effort=9, lossless=True)
    return found


def mosaic(images: np.ndarray) -> np.ndarray:
    """Tiles images (N, H, W[, 3]) into one image, about as many down as across. Unused places are 0."""
    count, height, width, *rest = images.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    canvas = np.zeros((down * across, height, width, *rest), images.dtype)
    canvas[:count] = images
    canvas = canvas.reshape(down, across, height, width, *rest).swapaxes(1, 2)
    return np.ascontiguousarray(canvas).reshape(down * height, across * width, *rest)


def _are_images(items: np.ndarray) -> bool:
    return items.dtype == np.uint8 and (items.ndim == 3 or (items.ndim == 4 and items.shape[3] == 3))


def _saved(pillow: Any, image: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    pillow.fromarray(image).save(file, **settings)
    return file.getvalue()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
