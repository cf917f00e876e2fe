"""Trains networks on priors with exact answers, and one for small tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model, peers
from .records import BARS, BUDGETS, COIN_STEPS, GAUSSIAN, MODE_STEPS, SHEET, SMALL, TABLE_STEPS

Job = tuple[str, str, int, int, str]  # what, head, steps, seed, folder of the data


def jobs(quick: bool) -> list[Job]:
    """Of everything that needs no files. ``quick``: the small Gaussian process alone."""
    found: list[Job] = [("floors", "", 0, 0, ""), ("coins", "", COIN_STEPS, 0, "")]
    found += [("modes", head, MODE_STEPS, 0, "") for head in (BARS, GAUSSIAN)]
    found += [(SMALL, BARS, steps, 0, "") for steps in BUDGETS[SMALL]]
    if not quick:
        few, many = BUDGETS[SHEET]
        found += [(SHEET, BARS, few, 0, ""), (SHEET, BARS, many, 0, ""), (SHEET, GAUSSIAN, many, 0, "")]
    return found


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Any]:
    """Runs all jobs in parallel."""
    todo = jobs(quick)
    if not quick and data is not None and data_files.has(data, "small_tables"):
        datasets.require_sklearn()
        todo.append(("tables", "", TABLE_STEPS, 0, str(data)))
    parts = run_jobs(work, todo, progress.bar("training", sum(job[2] for job in todo)))
    return [record for part in parts for record in part]


def work(what: str, head: str, steps: int, seed: int, folder: str, advance: model.Advance) -> list[Any]:
    """Runs one job."""
    if what == "floors":
        return [model.floors()]
    if what == "coins":
        return [model.coins(steps, seed, advance)]
    if what == "modes":
        return [model.modes(head, steps, seed, advance)]
    if what == "tables":
        return list(peers.compared(steps, seed, Path(folder), advance))
    return [model.gaps(what, head, steps, seed, advance)]
