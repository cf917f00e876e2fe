"""Benchmarks that report speeds as shares of this machine's measured limits and beside every peer, losses as plainly as
wins. Shipped inside the package as ``probkernels.bench``; ``python -m probkernels.bench --help``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(cases: list[str], json_path: Path | None) -> int:
    """Runs benchmarks without pytest-benchmark, for bare machines, and prints their tables.

    Args:
        cases: names of cases; empty for all.
        json_path: file for all measurements, rewritten after each point. A pipe gets it at the end.

    Returns:
        The exit code: 0; 1 if a result of ours is wrong or fails, or a claim does not hold; 2 for an unknown case.
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
    return int(broken or missed)
