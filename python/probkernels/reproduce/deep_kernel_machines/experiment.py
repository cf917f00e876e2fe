"""Trains sparse machines on digits, and full and sparse ones on UCI tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...kernel_methods import DKMClassifier, DKMRegressor, GramKernel
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .records import EXACT, NNGP, SEEDS, SPARSE, WIDTHS, Classified, Regressed

TRAIN = 900  # digits; the other 897 are the test set
EPOCHS = 40
TABLE = "uci_regression"  # of the files of --data
SPLITS = {**dict.fromkeys(EXACT, range(20)), **dict.fromkeys(SPARSE, range(2))}
STEPS, TABLE_EPOCHS, INDUCING = 60, 60, 200


def jobs(quick: bool) -> list[tuple[float, int]]:
    """Relative width and seed."""
    return [(nu, seed) for seed in (SEEDS[:1] if quick else SEEDS) for nu in WIDTHS]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Classified | Regressed]:
    """Runs all jobs in parallel; with ``data`` and without ``quick`` also those on tables."""
    datasets.require_sklearn()
    found: list[Classified | Regressed] = []
    if data is not None and not quick:
        found = measure_tables(data, progress, SPLITS)
    todo = jobs(quick)
    return [*run_jobs(work, todo, progress.bar("digits", len(todo))), *found]


def work(nu: float, seed: int, advance: Callable[[float], None]) -> Classified:
    """Trains one machine on digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x, y, train_size=TRAIN, stratify=y, random_state=seed)
    train, test, labels, truth = parts
    kernel = GramKernel("relu", learn=False)  # as in the paper: nothing but the Gram matrices adapts
    model = DKMClassifier(
        80, depth=2, nu=nu, kernel=kernel, epochs=EPOCHS, batch_size=300, samples=30, scale="global", seed=seed
    )
    probs = model.fit(train, labels).predict_proba(test)
    advance(1)
    nll = -np.log(probs[np.arange(len(truth)), truth]).mean()
    return Classified(nu, seed, float((probs.argmax(1) == truth).mean()), float(nll))


def measure_tables(
    folder: Path, progress: Progress, splits: dict[str, range], widths: tuple[float, ...] = (NNGP, 1.0)
) -> list[Classified | Regressed]:
    """Trains on splits of UCI tables."""
    arrays = data_files.load(folder, TABLE)
    todo = [
        (name, split, nu, arrays[f"{name}_X"], arrays[f"{name}_y"], arrays[f"{name}_test"][split])
        for name, chosen in splits.items()
        for split in chosen
        for nu in widths
    ]
    return list(run_jobs(work_table, todo, progress.bar("tables", len(todo))))


def work_table(
    name: str, split: int, nu: float, x: Any, y: Any, test: Any, advance: Callable[[float], None]
) -> Regressed:
    """Trains one machine on a split: full where the table is small, else with inducing points."""
    train = np.setdiff1d(np.arange(len(y)), test)
    if name in SPARSE:
        model = DKMRegressor(INDUCING, depth=2, nu=nu, epochs=TABLE_EPOCHS, batch_size=1000, seed=split)
    else:
        model = DKMRegressor(None, depth=2, nu=nu, epochs=STEPS)
    mean, std = model.fit(x[train], y[train]).predict(x[test], return_std=True)
    advance(1)
    normal = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(std))
    nll = -normal.log_prob(torch.from_numpy(y[test])).mean()
    return Regressed(name, split, nu, math.sqrt(float(np.square(mean - y[test]).mean())), float(nll))
