"""Lossless compression with circuits, in real bytes: files, headers included, beside what else there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..circuits import Circuit, chow_liu, factorised, hclt
from ..codec import AdaptiveCoder, PCCodec, Program, _classics, encode
from . import _circuits_data as data_sets
from . import _circuits_peers as peers
from . import circuits
from ._circuits_data import Images
from ._method import Method, Progress, Result
from ._workers import run_jobs

METHOD = Method(
    title="Lossless Compression with Probabilistic Circuits",
    paper="Liu, Mandt, Van den Broeck. ICLR 2022, arXiv:2111.11632",
    experiment=(
        "Hidden Chow-Liu trees are trained on images, frozen into whole-number tables, and compress other images into"
        " files, which are decoded and compared. Sizes are those of whole files, without the model unless that is said."
        " Beside them general and image compressors at their best levels, on all images as one array or mosaic and on"
        " each by itself. Data: scikit-learn's 8 × 8 digits in 17 levels, the first 1,297 for training and the last"
        " 500, by other writers, to compress; with --data, MNIST and its 10,000 test images."
    ),
)

SEEDS = (0, 1, 2)
SINGLE = 200  # images that are also coded by themselves
SMALL, FACTORISED, TREE = "HCLT, M = 8", "fully factorised", "Chow-Liu tree"
LARGE, LARGER, GROWN = "HCLT, M = 16", "HCLT, M = 32", "HCLT grown from M = 16 to 128"

# Bits a pixel that another program and other versions of the compressors gave.
EXPECTED = {
    ("digits", SMALL): "2.050 to 2.058, payload", ("digits", LARGE): "2.049 to 2.050, payload",
    ("digits", FACTORISED): "2.394", ("digits", TREE): "2.431", ("digits", "brotli -11"): "2.713",
    ("digits", "bzip2 -9"): "2.757", ("digits", "xz -9e"): "2.773", ("digits", "zlib -9"): "3.108",
    ("digits", f"JPEG XL, {_classics.MOSAIC}"): "2.548", ("digits", f"WebP, {_classics.MOSAIC}"): "3.045",
    ("digits", f"PNG, {_classics.MOSAIC}"): "4.003",
    ("MNIST", LARGE): "1.246", ("MNIST", "brotli -11"): "1.356", ("MNIST", "xz -9e"): "1.382",
    ("MNIST", "bzip2 -9"): "1.415", ("MNIST", "zstd -19"): "1.447", ("MNIST", f"PNG, {_classics.MOSAIC}"): "1.684",
    ("MNIST", f"JPEG XL, {_classics.MOSAIC}"): "1.566", ("MNIST", f"JPEG XL, {_classics.EACH}"): "2.139",
    ("MNIST", f"WebP, {_classics.EACH}"): "2.084", ("MNIST", f"PNG, {_classics.EACH}"): "2.684",
}  # fmt: skip


@dataclass
class Coded:
    """Test images as a file of ours."""

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
    """The test images under another compressor."""

    data: str
    name: str
    bytes: int
    bits: float  # a pixel


@dataclass
class Costs:
    """Some test images (N, D) and what each pixel costs in bits, given those coded before it."""

    data: str
    categories: int
    images: Tensor
    bits: Tensor


Record = Coded | Classic | Costs
Kind = TypeVar("Kind", bound=Record)
Advance = Callable[[float], None]


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Digits, and MNIST if there is a folder with it; ``quick`` is digits with M = 8 and one seed."""
    data_sets.require_sklearn()
    jobs = digit_jobs(quick)
    if data is not None and not quick:
        data_sets.mnist(data)  # a file that cannot be used shows now, not after the digits
        jobs = mnist_jobs(data) + jobs
    parts = run_jobs(work, jobs, progress.bar("compression", sum(job[1] for job in jobs)))
    return summarise([record for part in parts for record in part])


def digit_jobs(quick: bool) -> list[tuple[Any, ...]]:
    """Each is a task, the steps it moves the progress bar by, and its arguments."""
    models = [(8, 0)] if quick else [(latents, seed) for latents in (16, 8) for seed in SEEDS]
    return [
        *(("digits", circuits.EPOCHS, *model) for model in models),
        ("digits_closed_form", 2),
        ("digits_classics", 1),
    ]


def mnist_jobs(folder: Path, epochs: tuple[int, int] = (15, 20), size: int = 512) -> list[tuple[Any, ...]]:
    """The longest first."""
    half = epochs[1] // 2
    return [
        ("mnist_grown", half * (1 + circuits.DOUBLINGS), folder, half, size),
        ("mnist", epochs[0], folder, 32, size),
        ("mnist", epochs[1], folder, 16, size),
        ("mnist_classics", 1, folder),
    ]


def work(task: str, *arguments: Any) -> list[Record]:
    """One job; the last argument moves the progress bar on."""
    return TASKS[task](*arguments)


# --- tasks ---


def _digits(steps: int, latents: int, seed: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    circuit = hclt(images.train, latents, categories=images.categories, seed=seed)
    peers.full_batch_em(circuit, images.train, circuits.EPOCHS, 1.0, advance)
    found: list[Record] = [coded("digits", f"HCLT, M = {latents}", seed, circuit, images.test)]
    if (latents, seed) == (8, 0):
        assert images.test_labels is not None
        shown = images.test[data_sets.one_of_each(images.test_labels)]
        found.append(Costs("digits", images.categories, shown, pixel_bits(circuit, shown)))
    return found


def _digits_closed_form(steps: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    found: list[Record] = []
    for name, build in ((FACTORISED, factorised), (TREE, chow_liu)):
        found.append(coded("digits", name, 0, build(images.train, categories=images.categories), images.test))
        advance(1)
    return found


def _digits_classics(steps: int, advance: Advance) -> list[Record]:
    return _classic("digits", data_sets.digits(), advance)


def _mnist(epochs: int, folder: Path, latents: int, size: int, advance: Advance) -> list[Record]:
    images = data_sets.mnist(folder)
    circuit = circuits.mnist_hclt(images, epochs, latents, size, advance)
    found: list[Record] = [coded("MNIST", f"HCLT, M = {latents}", 0, circuit, images.test)]
    if latents == 16:
        found.append(Costs("MNIST", images.categories, images.test[:10], pixel_bits(circuit, images.test[:10])))
    return found


def _mnist_grown(passes: int, folder: Path, epochs: int, size: int, advance: Advance) -> list[Record]:
    images = data_sets.mnist(folder)
    circuit, _ = circuits.mnist_grown(images, epochs, size, advance)
    return [coded("MNIST", GROWN, 0, circuit, images.test)]


def _mnist_classics(steps: int, folder: Path, advance: Advance) -> list[Record]:
    return _classic("MNIST", data_sets.mnist(folder), advance)


TASKS: dict[str, Callable[..., list[Record]]] = {
    "digits": _digits, "digits_closed_form": _digits_closed_form, "digits_classics": _digits_classics,
    "mnist": _mnist, "mnist_grown": _mnist_grown, "mnist_classics": _mnist_classics,
}  # fmt: skip


def coded(data: str, name: str, seed: int, circuit: Circuit, test: Tensor) -> Coded:
    """What a file of the images (N, D) takes, and whether it can be read back."""
    model, items = PCCodec(circuit), test.numpy().astype(np.uint8)
    blob = model.compress(items)
    same = bool((model.decompress(blob) == items).all())
    few = test[:SINGLE]
    alone = 8 * sum(map(len, encode(model.program, few.int(), 1, 1)))
    extra = (alone - few.numel() * data_sets.bits(circuit, few)) / few.numel()
    ideal = data_sets.bits(circuit, test) * test.numel()
    images, pixels = test.shape
    return Coded(data, name, seed, len(blob), ideal, extra, images, pixels, len(model.to_bytes()), same)


@torch.no_grad()
def pixel_bits(circuit: Circuit, images: Tensor) -> Tensor:
    """(N, D): -log2 of the probability of each pixel given those that the codec codes before it."""
    missing = torch.ones(images.shape[1], dtype=torch.bool)
    found, before = torch.zeros(images.shape, dtype=torch.float64), torch.zeros(len(images), dtype=torch.float64)
    for pixel in Program.from_circuit(circuit).order:
        missing[pixel] = False
        now = circuit.log_prob(images, missing=missing).double()
        found[:, pixel], before = (before - now) / math.log(2), now
    return found


def _classic(data: str, images: Images, advance: Advance) -> list[Record]:
    items = images.test.numpy().astype(np.uint8).reshape(-1, images.side, images.side)
    sizes = _classics.sizes(items)
    codes = items.reshape(len(items), -1).astype(np.int32)
    for order in (0, 1, 2):
        adaptive = AdaptiveCoder(codes.shape[1], order)
        sizes[f"adaptive model of order {order}"] = sum(map(len, adaptive.encode(codes, len(codes), 1)))
    found = [Classic(data, name, size, 8 * size / items.size) for name, size in sizes.items()]
    advance(1)
    return list(found)


# --- what they show ---


def of_kind(records: Sequence[Record], kind: type[Kind]) -> list[Kind]:
    """The records of one kind, in order."""
    return [record for record in records if isinstance(record, kind)]


def summarise(records: Sequence[Record]) -> Result:
    """Claims, tables and pictures."""
    from . import _pc_compression_plots as plots
    from ._pc_compression_claims import claims, tables

    return Result(claims(records), tables(records), plots.figures(records))
