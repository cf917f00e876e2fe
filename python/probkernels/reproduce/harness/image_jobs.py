"""Jobs of experiments on digits and, if its files are given, on MNIST."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import datasets
from .method import Progress
from .toy_models import DOUBLINGS
from .workers import run_jobs

Job = tuple[Any, ...]  # a task, the steps by which it moves the progress bar, and its arguments


def run(title: str, work: Callable[..., list[Any]], planned: list[Job], progress: Progress) -> list[Any]:
    """Runs all jobs in parallel, in processes with one thread each, and returns their records."""
    parts = run_jobs(work, planned, progress.bar(title, sum(job[1] for job in planned)))
    return [record for part in parts for record in part]


def with_mnist(quick: bool, data: Path | None, digits: list[Job], mnist: Callable[[Path], list[Job]]) -> list[Job]:
    """The jobs on digits, after those on MNIST if ``data`` has it and the run is not ``quick``."""
    if data is None or quick:
        return digits
    datasets.mnist(data)  # a file that cannot be used shows now, not after the digits
    return mnist(data) + digits


def mnist_models(folder: Path, epochs: tuple[int, int], size: int) -> list[Job]:
    """The trees that are trained on MNIST, the longest first: one grown, and one of 32 and one of 16 states."""
    half = epochs[1] // 2
    return [
        ("mnist_grown", half * (1 + DOUBLINGS), folder, half, size),
        ("mnist", epochs[0], folder, 32, size),
        ("mnist", epochs[1], folder, 16, size),
    ]
