"""Grids of points for most cases: every size on one core and on all cores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .case import Params
from .machine import cores


def points(
    device: str, names: Sequence[str], sizes: Iterable[Sequence[object]], dtype: str = "float32", once: bool = True
) -> list[Params]:
    """A point for every size, whose parts are named; ``once``: only with all cores where a GPU does the work."""
    counts = [cores()] if once and device == "cuda" else sorted({1, cores()})
    return [
        {"device": device, "dtype": dtype, "threads": threads, **dict(zip(names, size, strict=True))}
        for size in sizes
        for threads in counts
    ]


def one_core(names: Sequence[str], sizes: Iterable[Sequence[object]]) -> list[Params]:
    """A point for every size on one CPU core, float32: for functions that are claimed to be fast there."""
    return [p for p in points("cpu", names, sizes) if p["threads"] == 1]
