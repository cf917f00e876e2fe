"""Turns a result of ``python -m probkernels.bench CASE --json FILE`` into a file of pytest-benchmark's storage.

``python -m probkernels.bench.convert FILE OUT``; then ``pytest-benchmark compare --storage file://FOLDER OUT``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .entries import TEST, extra_info, group, name
from .limits import limit_name

Document = dict[str, Any]


def convert(document: Document) -> Document:
    """The same figures as pytest-benchmark would have stored them, every sample among them.

    Args:
        document: what ``--json`` wrote.
    """
    from pytest_benchmark import __version__

    software = document["software"]
    commit = {"id": software["commit"] or "unknown", "dirty": software["dirty"], "time": None, "author_time": None}
    keys = ("case", "params", "mode", "provider", "kind", "status", "reason", "error")
    untimed = [{key: row[key] for key in keys} for row in document["results"] if row["status"] != "ok"]
    machine = {key: value for key, value in document["machine"].items() if not key.startswith("load_")}
    return {
        "machine_info": {
            "node": "",
            "system": document["machine"]["system"],
            "python_version": software["python"],
            "cpu": {"brand_raw": document["machine"]["cpu"], "count": document["machine"]["cores"]},
            "probkernels": machine,
        },
        "commit_info": {**commit, "project": "probkernels", "branch": "(unknown)"},
        "benchmarks": [_entry(row) for row in document["results"] if row["status"] == "ok"],
        "datetime": document["time"],
        "version": __version__,
        "probkernels": {
            "converted": True,
            "load_before": document["machine"]["load_before"],
            "load_after": document["machine"]["load_after"],
            **{key: document[key] for key in ("noisy", "software", "limits", "verdicts")},
            "not_timed": untimed,
        },
    }


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    stats = Stats()
    for sample in row["samples_s"]:
        stats.update(sample)
    if row["kind"] == "limit" and not row["provider"].startswith(limit_name("")):  # older files
        row = {**row, "provider": limit_name(row["provider"])}
    case, params, mode = (row[key] for key in ("case", "params", "mode"))
    own = name(case, params, mode, row["provider"])
    figures = {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in stats.as_dict().items()}
    return {
        "group": group(case, params, mode),
        "name": f"{TEST.rpartition('::')[2]}[{own}]",
        "fullname": f"{TEST}[{own}]",
        "params": None,
        "param": None,
        "extra_info": {**extra_info(row), "op_tests": "not known"},
        "options": {"timer": "replay"},
        "stats": {**figures, "data": stats.data, "iterations": 1},
    }


def main() -> None:
    """Converts one file."""
    parser = argparse.ArgumentParser(prog="python -m probkernels.bench.convert", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(convert(json.loads(arguments.file.read_text())))
    with open(arguments.out, "x") as out:
        out.write(f"{text}\n")


if __name__ == "__main__":
    main()
