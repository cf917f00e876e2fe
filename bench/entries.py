"""The entries that ``pytest bench`` collects before measuring: one per provider, grouped by case, point and mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .case import Case, Params
from .limits import limit_name, stream_names
from .runner import describe

TEST = "bench/test_bench.py::test_speed"


@dataclass(frozen=True)
class Entry:
    """One provider, or one of the machine's limits, in one mode at one point of a case."""

    case: Case
    params: Params
    mode: str
    provider: str
    kind: str

    @property
    def group(self) -> str:
        """The group's name, shared by all entries that are timed in the same rounds."""
        return group(self.case.name, self.params, self.mode)

    @property
    def name(self) -> str:
        """The unique name of this entry."""
        return name(self.case.name, self.params, self.mode, self.provider)


def group(case: str, params: Params, mode: str) -> str:
    """The heading of a table: case, point and mode."""
    return f"{case} {describe(params)} {mode}"


def name(case: str, params: Params, mode: str, provider: str) -> str:
    """An entry's name among the tests."""
    return identifier(f"{group(case, params, mode)} {provider}")


def identifier(text: str) -> str:
    """A test's name in characters that ``pytest -k`` takes: ``threads:1`` for ``threads=1``."""
    return text.translate(str.maketrans(" =", "-:"))


def entries(cases: Sequence[Case], device_type: str) -> list[Entry]:
    """The entries of cases on a device, those of a point next to each other."""
    return [
        Entry(case, params, mode, *competitor)
        for case in cases
        for params in case.grid(device_type)
        for mode in case.modes
        for competitor in _competitors(case, params, mode)
    ]


def _competitors(case: Case, params: Params, mode: str) -> list[tuple[str, str]]:
    """(name, kind) of each provider, and of each limit where the case moves bytes that count."""
    device = params["device"]
    fit = (p for p in case.providers if device in p.devices and mode in case.modes_of(p))
    found = [(p.name, p.kind) for p in fit]
    return found + [(limit_name(stream), "limit") for stream in stream_names(device) if case.bytes(params, mode)]


def extra_info(row: dict[str, Any]) -> dict[str, Any]:
    """The ``extra_info`` of an entry; ``row`` is a Result as a dict."""
    percent = None if row["of_limit"] is None else 100 * row["of_limit"]
    names = ("provider", "kind", "mode", "error", "bytes", "flops", "peak_bytes", "calls_per_sample")
    return {
        **{key: row.get(key) for key in names},
        "percent_of_limit": percent,
        "times_faster_than": row["faster_than"],
    }
