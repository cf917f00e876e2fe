"""Measures each point once, when its first entry asks for it, and keeps the results for its other entries."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from . import timing
from .case import Case, Params, Result, Verdict
from .entries import Entry, identifier
from .limits import measure_limits
from .machine import ROOT, is_noisy, load, machine_facts, software_facts
from .runner import Point, describe


class Session:
    """The measurements behind one run of ``pytest bench``.

    Args:
        entries: everything that may be asked for.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.results: dict[str, list[Result]] = {}  # by group
        self.verdicts: list[dict[str, Any]] = []
        self.machine, self.load_before = machine_facts(), load()
        self._point: Point | None = None  # only the newest: its tensors are large

    @functools.cached_property
    def limits(self) -> dict[str, Any]:
        """The machine's limits, for every thread count of the entries."""
        timing.recycle_memory()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return measure_limits(device, sorted({entry.params["threads"] for entry in self.entries.values()}))

    def point(self, case: Case, params: Params) -> Point:
        """The point with its inputs and its checked providers."""
        if self._point is None or (self._point.case, self._point.params) != (case, params):
            self._point = None  # frees the last one's tensors first
            self._point = Point(case, params)
        return self._point

    def check(self, entry: Entry) -> Result:
        """The entry's provider against its oracle, untimed."""
        checked = {c.provider.name: c for c in self.point(entry.case, entry.params).checked}[entry.provider]
        return Result(
            entry.case.name, entry.params, entry.provider, entry.mode, entry.kind, checked.status, checked.reason
        )

    def result(self, entry: Entry) -> Result:
        """The entry's result; all providers of its group are timed when the first is asked for."""
        if entry.group not in self.results:
            limits = self.limits
            self.results[entry.group] = self.point(entry.case, entry.params).measure_mode(entry.mode, limits)
        return next(r for r in self.results[entry.group] if r.provider == entry.provider)

    def judge(self, case: Case, params: Params) -> list[Verdict]:
        """The verdicts of a case about one point. Measures all modes of the point."""
        own = [e for e in self.entries.values() if e.case is case and e.params == params]
        for entry in own:
            self.result(entry)
        verdicts = case.judge([r for group in dict.fromkeys(e.group for e in own) for r in self.results[group]])
        self.verdicts += [asdict(v) | {"case": case.name} for v in verdicts]
        return verdicts

    def document(self) -> dict[str, Any]:
        """Data that pytest-benchmark does not store: load, software, limits, verdicts, and untimed providers."""
        after = load()
        untimed = [asdict(r) for rows in self.results.values() for r in rows if r.status != "ok"]
        keys = ("case", "params", "mode", "provider", "kind", "status", "reason", "error")
        return {
            "load_before": self.load_before,
            "load_after": after,
            "noisy": is_noisy(self.load_before, after, self.machine["cores"]),
            "software": software_facts(),
            "limits": self.__dict__.get("limits", {}),  # measured or not; not a reason to measure them
            "verdicts": self.verdicts,
            "not_timed": [{key: row[key] for key in keys} for row in untimed],
        }


class Replay:
    """A timer for pytest-benchmark that returns samples taken earlier: each pair of calls is one sample apart."""

    def __init__(self) -> None:
        self.__name__ = "replay"  # what pytest-benchmark stores
        self._times: Iterator[float] = iter(())

    def load(self, samples: Sequence[float]) -> None:
        """Sets what is replayed next."""
        self._times = (time for sample in samples for time in (0.0, sample))

    def __call__(self) -> float:
        return next(self._times)


replay = Replay()


@functools.cache
def problem_of(file: str) -> str | None:
    """The reason to report no speed: tests of this file, below tests/, fail or are missing. None if they pass."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return f"tests/{file} is not installed. Hint: a checkout has it; --no-op-tests skips this check"
    words = "not emu" if torch.cuda.is_available() else "not emu and not cuda and not triton"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", words, str(path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    return f"tests/{file} does not pass: {' '.join(last)}"


def broken_tests(case: Case) -> list[str]:
    """The reasons to report no speed of a case, one line per test file; empty if all tests pass."""
    return [problem for problem in map(problem_of, case.test_files()) if problem is not None]


def claim_points(cases: Sequence[Case], device_type: str) -> dict[str, tuple[Case, Params]]:
    """The points of the cases that have a claim about speed, by name."""
    judged = [case for case in cases if case.judge is not Case.judge]
    return {identifier(f"{c.name} {describe(p)}"): (c, p) for c in judged for p in c.grid(device_type)}
