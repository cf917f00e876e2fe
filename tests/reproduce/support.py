"""What the tests of all reproductions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from probkernels.reproduce import Progress, Result


class Sum(Progress):
    """Adds up what the bars are told."""

    done, total = 0.0, 0.0

    def bar(self, text: str, total: float) -> Callable[[float], None]:
        self.total += total
        return self.advance

    def advance(self, amount: float) -> None:
        self.done += amount


def run_here(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], advance: Callable[[float], None]) -> Any:
    """All jobs in this process; test_workers.py covers the processes."""
    return [function(*job, advance) for job in jobs]


class WorkersHere:
    """Workers without processes."""

    def __init__(self, most: int) -> None:
        self.run = run_here

    def __enter__(self) -> WorkersHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def still(amount: float) -> None:
    """Moves no bar."""


def summarize(method: ModuleType, records: Sequence[Any]) -> Result:
    """What ``method.run`` makes of its records."""
    return Result(method.claims.claims(records), method.claims.tables(records), method.plots.figures(records))
