"""Trains gated experts with every kind of unit, and logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model
from .records import DIGITS, LINEAR, MNIST, NR, PARITY, RELU, SBN, SEEDS, SLOPE, ST, STS, UNITS, Trained

EPOCHS = {DIGITS: 120, PARITY: 100, MNIST: 5}
QUICK_EPOCHS = {DIGITS: 40, PARITY: 100}  # ten classes are learned early
QUICK = (
    *((DIGITS, unit, 0) for unit in (NR, STS, ST, RELU)), *((PARITY, unit, 0) for unit in (NR, SLOPE, LINEAR))
)  # fmt: skip


def jobs(quick: bool) -> list[tuple[str, str, int]]:
    """Task, unit and seed."""
    if quick:
        return list(QUICK)
    small = [(task, unit, seed) for task in (DIGITS, PARITY) for unit in UNITS for seed in SEEDS]
    linear = [(task, LINEAR, 0) for task in (DIGITS, PARITY)]
    return [*small, *linear, *((MNIST, unit, 0) for unit in (NR, RELU, STS, ST, SBN))]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained]:
    """Runs all jobs in parallel; those of MNIST if ``data`` is given."""
    datasets.require_sklearn()
    epochs_of = QUICK_EPOCHS if quick else EPOCHS
    todo = [(*job, epochs_of[job[0]], data) for job in jobs(quick) if job[0] != MNIST or data is not None]
    if data is not None and not quick:
        data_files.load(data, "mnist")  # a missing file shows before training
    total = sum(1 if unit == LINEAR else epochs for _, unit, _, epochs, _ in todo)
    return run_jobs(work, todo, progress.bar("training", total))


def work(task: str, unit: str, seed: int, epochs: int, data: Path | None, advance: Callable[[float], None]) -> Trained:
    """Trains and judges one network."""
    images = model.load(task, data)
    if unit == LINEAR:
        accuracy = model.linear_accuracy(images)
        advance(1)
        return Trained(task, unit, seed, accuracy, 1.0, float("nan"), [accuracy])
    return Trained(task, unit, seed, *model.train(task, unit, seed, images, epochs, advance))
