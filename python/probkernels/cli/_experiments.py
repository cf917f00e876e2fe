"""Runs experiments one after another, shows their progress and saves their results."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from probkernels._core import outputs
from probkernels.reproduce import Claim, Outcome, Progress, Result, load, names
from probkernels.reproduce.harness import report as pages

from ._targets import INTERRUPTED, claim

__all__ = ["Outcome", "Saver", "names", "run_all"]


def run_all(
    methods: Sequence[str], outcomes: list[Outcome], save: Saver, quick: bool, data: Path | None, console: Console
) -> int:
    """Runs methods and saves the results after each. Returns the exit code of an interruption, or 0."""
    try:
        for name in methods:
            outcomes.append(_run(name, quick, data, console))
            save(outcomes)
            _show(outcomes[-1], console)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted: {len(outcomes)} of {len(methods)} methods finished.")
        return INTERRUPTED
    return 0


def _one_target(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, which may not exist yet, or to one open stream."""
    number = outputs.descriptor(path)
    if number is not None or outputs.descriptor(other) is not None:
        return number == outputs.descriptor(other)
    return os.path.realpath(path) == os.path.realpath(other)


class Saver:
    """Rewrites the result files after each method, so that finished results are never lost."""

    def __init__(self, json_path: Path | None, report: Path) -> None:
        self.json_path, self.report = json_path, report
        self.paths = [path for path in (json_path, report) if path is not None]
        self.sections: list[str] = []

    def claim(self, force: bool) -> None:
        """Raises ValueError or OSError unless both files may be written. Creates their folders."""
        if self.json_path is not None and _one_target(self.json_path, self.report):
            raise ValueError("expected different files for --json and --report")
        for path in self.paths:
            if not outputs.is_stream(path):
                path.absolute().parent.mkdir(parents=True, exist_ok=True)
            claim(path, [other for other in self.paths if other is not path], force)

    def __call__(self, outcomes: Sequence[Outcome], last: bool = False) -> None:
        self.sections += map(pages.section, outcomes[len(self.sections) :])
        versions = [f"{name} {metadata.version(name)}" for name in ("probkernels", "torch")]
        facts = f"{', '.join(versions)}, Python {platform.python_version()}"
        for path in self.paths:
            if outputs.is_stream(path) != last:  # a pipe takes one text, in the end
                continue
            if path == self.json_path:
                rows = [row for outcome in outcomes for row in outcome.rows()]
                pages.write(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
            else:
                pages.write(path, pages.page(self.sections, facts))


class _Bars(Progress):
    """Progress bars in a terminal. Elsewhere it prints nothing, because a log keeps every line."""

    def __init__(self, console: Console) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        self.bars = Bars(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )

    def bar(self, text: str, total: float) -> Callable[[float], None]:
        task = self.bars.add_task(text, total=total)
        return lambda amount: self.bars.advance(task, amount)


def _run(name: str, quick: bool, data: Path | None, console: Console) -> Outcome:
    """Runs a method. An exception becomes a claim that does not hold, so that the other methods still run."""
    module = load(name)
    console.print(Text.assemble((name, "bold"), f"  {module.METHOD.title}. {module.METHOD.paper}"))
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    progress = _Bars(console)
    with progress.bars:
        try:
            result = module.run(quick, data, progress)
        except Exception as error:
            traceback.print_exc()
            note = f"{type(error).__name__}: {error}"
            result = Result([Claim("the experiment runs to its end", float("nan"), "no error", False, note)])
    return Outcome(name, module.METHOD, result, time.perf_counter() - start, _cpu_seconds() - cpu_start)


def _cpu_seconds() -> float:
    """CPU time in seconds of this process and of the workers that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _show(outcome: Outcome, console: Console) -> None:
    claims = _grid(["claim", "measured", "expected", ""])
    for each in outcome.result.claims:
        verdict = Text("holds", "green") if each.holds else Text("DOES NOT HOLD", "bold red")
        text = Text.assemble(each.text, (f"\n{each.note}" if each.note else "", "dim"))
        claims.add_row(text, f"{each.measured:.4g}", each.expected, verdict)
    console.print(claims)
    for table in outcome.result.tables:
        grid = _grid(table.header)
        for row in table.rows:
            grid.add_row(*row)
        console.print(grid)
        console.print(Text(table.caption, "dim"))
    console.print(f"[dim]{outcome.seconds:.0f} s, {outcome.cpu_seconds:.0f} CPU s[/]\n")


def _grid(header: Sequence[str]) -> Table:
    grid: Any = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        grid.add_column(name, no_wrap=i > 0)
    return grid
