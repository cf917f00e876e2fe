"""Lossless compression with circuits in real bytes: whole files with headers, compared with other compressors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...circuits import Circuit, chow_liu, factorized, hclt
from ...codec import AdaptiveCoder, PCCodec, Program, classics, encode
from ..harness import datasets, image_jobs
from ..harness.datasets import Images
from ..harness.method import Progress
from ..harness.toy_models import EPOCHS, Advance, bits, full_batch_em, mnist_grown, mnist_hclt
from .records import FACTORIZED, GROWN, SEEDS, TREE, Classic, Coded, Costs, Record

SINGLE = 200  # images that are also coded by themselves


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel."""
    datasets.require_sklearn()
    return image_jobs.run("compression", work, jobs(quick, data), progress)


def jobs(quick: bool, data: Path | None = None) -> list[tuple[Any, ...]]:
    """All jobs, the longest first. A job is a task, its number of progress steps, and its arguments."""
    return image_jobs.with_mnist(quick, data, digit_jobs(quick), mnist_jobs)


def digit_jobs(quick: bool) -> list[tuple[Any, ...]]:
    """The jobs on digits. A job is a task, its number of progress steps, and its arguments."""
    models = [(8, 0)] if quick else [(latents, seed) for latents in (16, 8) for seed in SEEDS]
    return [*(("digits", EPOCHS, *model) for model in models), ("digits_closed_form", 2), ("digits_classics", 1)]


def mnist_jobs(folder: Path, epochs: tuple[int, int] = (15, 20), size: int = 512) -> list[tuple[Any, ...]]:
    """The jobs on MNIST, the longest first."""
    return [*image_jobs.mnist_models(folder, epochs, size), ("mnist_classics", 1, folder)]


def work(task: str, *arguments: Any) -> list[Record]:
    """Runs one job. The last argument advances the progress bar."""
    return TASKS[task](*arguments)


# --- tasks ---


def _digits(steps: int, latents: int, seed: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    circuit = hclt(images.train, latents, categories=images.categories, seed=seed)
    full_batch_em(circuit, images.train, EPOCHS, 1.0, advance)
    found: list[Record] = [coded("digits", f"HCLT, M = {latents}", seed, circuit, images.test)]
    if (latents, seed) == (8, 0):
        assert images.test_labels is not None
        shown = images.test[datasets.one_of_each(images.test_labels)]
        found.append(Costs("digits", images.categories, shown, pixel_bits(circuit, shown)))
    return found


def _digits_closed_form(steps: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    found: list[Record] = []
    for name, build in ((FACTORIZED, factorized), (TREE, chow_liu)):
        found.append(coded("digits", name, 0, build(images.train, categories=images.categories), images.test))
        advance(1)
    return found


def _digits_classics(steps: int, advance: Advance) -> list[Record]:
    return _classic("digits", datasets.digits(), advance)


def _mnist(epochs: int, folder: Path, latents: int, size: int, advance: Advance) -> list[Record]:
    images = datasets.mnist(folder)
    circuit = mnist_hclt(images, epochs, latents, size, advance)
    found: list[Record] = [coded("MNIST", f"HCLT, M = {latents}", 0, circuit, images.test)]
    if latents == 16:
        found.append(Costs("MNIST", images.categories, images.test[:10], pixel_bits(circuit, images.test[:10])))
    return found


def _mnist_grown(passes: int, folder: Path, epochs: int, size: int, advance: Advance) -> list[Record]:
    images = datasets.mnist(folder)
    circuit, _ = mnist_grown(images, epochs, size, advance)
    return [coded("MNIST", GROWN, 0, circuit, images.test)]


def _mnist_classics(steps: int, folder: Path, advance: Advance) -> list[Record]:
    return _classic("MNIST", datasets.mnist(folder), advance)


TASKS: dict[str, Callable[..., list[Record]]] = {
    "digits": _digits, "digits_closed_form": _digits_closed_form, "digits_classics": _digits_classics,
    "mnist": _mnist, "mnist_grown": _mnist_grown, "mnist_classics": _mnist_classics,
}  # fmt: skip


def coded(data: str, name: str, seed: int, circuit: Circuit, test: Tensor) -> Coded:
    """Codes the images (N, D) into a file. Returns its sizes and whether it decodes to the images."""
    model, items = PCCodec(circuit), test.numpy().astype(np.uint8)
    blob = model.compress(items)
    same = bool((model.decompress(blob) == items).all())
    few = test[:SINGLE]
    alone = 8 * sum(map(len, encode(model.program, few.int(), 1, 1)))
    extra = (alone - few.numel() * bits(circuit, few)) / few.numel()
    ideal = bits(circuit, test) * test.numel()
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
    sizes = classics.sizes(items)
    codes = items.reshape(len(items), -1).astype(np.int32)
    for order in (0, 1, 2):
        adaptive = AdaptiveCoder(codes.shape[1], order)
        sizes[f"adaptive model of order {order}"] = sum(map(len, adaptive.encode(codes, len(codes), 1)))
    found = [Classic(data, name, size, 8 * size / items.size) for name, size in sizes.items()]
    advance(1)
    return list(found)
