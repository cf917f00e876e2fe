"""The records of the jobs, and the expected figures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...codec import classics

SEEDS = (0, 1, 2)
SMALL, FACTORIZED, TREE = "HCLT, M = 8", "fully factorized", "Chow-Liu tree"
LARGE, LARGER, GROWN = "HCLT, M = 16", "HCLT, M = 32", "HCLT grown from M = 16 to 128"

# Bits a pixel that another program and other versions of the compressors gave.
EXPECTED = {
    ("digits", SMALL): "2.050 to 2.058, payload", ("digits", LARGE): "2.049 to 2.050, payload",
    ("digits", FACTORIZED): "2.394", ("digits", TREE): "2.431", ("digits", "brotli -11"): "2.713",
    ("digits", "bzip2 -9"): "2.757", ("digits", "xz -9e"): "2.773", ("digits", "zlib -9"): "3.108",
    ("digits", f"JPEG XL, {classics.MOSAIC}"): "2.548", ("digits", f"WebP, {classics.MOSAIC}"): "3.045",
    ("digits", f"PNG, {classics.MOSAIC}"): "4.003",
    ("MNIST", LARGE): "1.246", ("MNIST", "brotli -11"): "1.356", ("MNIST", "xz -9e"): "1.382",
    ("MNIST", "bzip2 -9"): "1.415", ("MNIST", "zstd -19"): "1.447", ("MNIST", f"PNG, {classics.MOSAIC}"): "1.684",
    ("MNIST", f"JPEG XL, {classics.MOSAIC}"): "1.566", ("MNIST", f"JPEG XL, {classics.EACH}"): "2.139",
    ("MNIST", f"WebP, {classics.EACH}"): "2.084", ("MNIST", f"PNG, {classics.EACH}"): "2.684",
}  # fmt: skip


@dataclass
class Coded:
    """The test images, coded as a file of this package."""

    data: str
    model: str
    seed: int
    bytes: int  # of the file
    ideal: float  # -log2 p of the images, by the circuit that was frozen
    alone: float  # bits a pixel of images coded each by itself, without a container, less those of the same together
    images: int
    pixels: int  # of an image
    model_bytes: int
    same: bool  # whether the file decodes to the images

    @property
    def bits(self) -> float:
        """Bits a pixel."""
        return 8 * self.bytes / (self.images * self.pixels)


@dataclass
class Classic:
    """The test images, coded by another compressor."""

    data: str
    name: str
    bytes: int
    bits: float  # a pixel


@dataclass
class Costs:
    """Some test images (N, D) and the bits of each pixel, given the pixels coded before it."""

    data: str
    categories: int
    images: Tensor
    bits: Tensor


Record = Coded | Classic | Costs
