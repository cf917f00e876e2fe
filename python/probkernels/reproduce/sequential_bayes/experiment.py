"""Filters the stream of blobs, and trains class-incremental learners on digits and Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from . import peers
from .records import DIGITS, FASHION, FINE_TUNING, JOINT, MEMORIES, REFRESH, SEEDS, SEQUENTIAL, WAYS, Learned, Stream

FASHION_SETTING = peers.Setting(epochs=2, batch=128)
FASHION_MEMORY, QUICK_ITERATIONS = 1000, 250
Job = tuple[str, str, int, int, str]  # what, way, iterations of HMC or size of the memory, seed, folder of the data


def jobs(quick: bool) -> list[Job]:
    """Of everything that needs no files. ``quick``: a shorter HMC of one stream, and the learners of the claims."""
    chains = [(QUICK_ITERATIONS, 0)] + [(toy.ITERATIONS, seed) for seed in SEEDS]
    found: list[Job] = [("stream", way, n, seed, "") for n, seed in chains for way in (SEQUENTIAL, JOINT)]
    found = found[:2] if quick else found
    for way in WAYS:
        sizes = (0,) if way == FINE_TUNING else MEMORIES[-1:] if quick else MEMORIES
        if not quick or way in (FINE_TUNING, REFRESH):
            found += [(DIGITS, way, size, seed, "") for size in sizes for seed in (SEEDS[:1] if quick else SEEDS)]
    return found


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Stream | Learned]:
    """Runs all jobs in parallel."""
    datasets.require_sklearn()
    todo = jobs(quick)
    if not quick and data is not None and data_files.has(data, "fashion_mnist_labels"):
        ways = [(way, 0 if way == FINE_TUNING else FASHION_MEMORY) for way in WAYS]
        todo += [(FASHION, way, size, 0, str(data)) for way, size in ways]
    return run_jobs(work, todo, progress.bar("learning", sum(map(amount, todo))))


def amount(job: Job) -> float:
    """How often a job advances the bar."""
    if job[0] == "stream":
        return job[2] * (toy.TASKS if job[1] == SEQUENTIAL else 1)
    return setting_of(job[0]).epochs * peers.CLASSES // 2


def setting_of(data: str) -> peers.Setting:
    """The training on a data set."""
    return FASHION_SETTING if data == FASHION else peers.Setting()


def work(data: str, way: str, size: int, seed: int, folder: str, advance: toy.Advance) -> Stream | Learned:
    """Runs one job."""
    if data == "stream":
        return stream(way, size, seed, advance)
    train, test = digits(seed) if data == DIGITS else fashion(Path(folder))
    accuracy = peers.trained(way, size, seed, train, test, setting_of(data), advance)
    return Learned(data, way, size, seed, accuracy)


def stream(way: str, iterations: int, seed: int, advance: toy.Advance) -> Stream:
    """Samples the posterior task by task, or that of all tasks at once."""
    generator = torch.Generator().manual_seed(100 + seed)
    train, test = toy.blobs(generator), toy.blobs(generator)
    if way == JOINT:
        train = [(torch.cat([x for x, _ in train]), torch.cat([y for _, y in train]))]
    found = toy.filtered(train, iterations, seed, advance)
    components = [int(getattr(after.density, "components", 0)) for after in found]
    seen = [test] if way == JOINT else [test[: n + 1] for n in range(len(test))]
    rows = [[toy.accuracy(after.samples, task) for task in tasks] for after, tasks in zip(found, seen, strict=True)]
    return Stream(way, iterations, seed, rows, components)


def digits(seed: int) -> tuple[peers.Examples, peers.Examples]:
    """70 % of each digit to train on, the others to test; pixels in [-1, 1]."""
    images = datasets.digits()
    assert images.test_labels is not None
    x = torch.cat([images.train, images.test]).float() / 8 - 1
    y = torch.cat([images.labels, images.test_labels])
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[], []]
    for digit in range(peers.CLASSES):
        own = (y == digit).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        for part, rows in zip(parts, own.tensor_split([round(0.7 * len(own))]), strict=True):
            part.append(rows)
    train, test = (torch.cat(part) for part in parts)
    return (x[train], y[train]), (x[test], y[test])


def fashion(folder: Path) -> tuple[peers.Examples, peers.Examples]:
    """All images of Fashion-MNIST, pixels in [-1, 1]."""
    labels = data_files.load(folder, "fashion_mnist_labels")

    def part(name: str) -> peers.Examples:
        pixels: Any = data_files.load(folder, f"fashion_mnist_{name}")
        x = torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 127.5 - 1
        return x, torch.from_numpy(labels[name].astype(np.int64))

    return part("train"), part("test")
