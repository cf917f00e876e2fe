"""Benchmarks that report a share of what this machine was measured to do, beside every peer, losses as plainly as
wins. Shipped inside the package as ``probkernels.bench``; ``python -m probkernels.bench --help``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(cases: list[str], compare: bool, json_path: Path | None) -> int:
    """Runs benchmarks and prints their tables.

    Args:
        cases: names of cases; empty for all.
        compare: also hold our figures against the newest result of this machine in bench/results.
        json_path: file for everything that was measured, rewritten after each point; a pipe gets it in the end.

    Returns:
        0; 1 when a result of ours is wrong or fails, a claim does not hold or a figure has regressed; 2 for an
        unknown case.
    """
    import torch
    from probkernels._core.outputs import is_stream, write_bytes

    from .cases import get, names
    from .report import text
    from .runner import run
    from .timing import recycle_memory

    try:
        chosen = [get(name) for name in cases or names()]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    recycle_memory()

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def save(document: dict[str, Any]) -> None:
        if json_path is not None and not is_stream(json_path):
            json_path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(json_path, json.dumps(document).encode() + b"\n")

    document = run(chosen, torch.device("cuda" if torch.cuda.is_available() else "cpu"), tell, save)
    if json_path is not None and is_stream(json_path):  # which takes it once
        write_bytes(json_path, json.dumps(document).encode() + b"\n")
    print(text(document))
    broken = any(r["kind"] == "ours" and r["status"] in ("wrong", "failed") for r in document["results"])
    missed = any(not verdict["holds"] for verdict in document["verdicts"])
    regressed = compare and sum(_compare(document, case.name) for case in chosen) > 0
    return int(broken or missed or regressed)


def _compare(document: dict[str, Any], case: str) -> bool:
    """Prints how our figures of a case moved; True when one has regressed."""
    from . import compare as comparison
    from .runner import describe

    old = comparison.newest(comparison.RESULTS, case, document["machine"])
    if old is None:
        print(f"\n{case}: no committed result of this machine, so nothing is compared")
        return False
    print(f"\n{case} against {old['time']}; time ratios, each time relative to its run's yardstick")
    changes = comparison.compare(old, document, case)
    for change in changes:
        mark = f"  REGRESSED (above {comparison.THRESHOLD})" if change.regressed else ""
        print(f"  {change.ratio:5.2f}x {change.provider} {change.mode}: {describe(change.params)}{mark}")
    return any(change.regressed for change in changes)
