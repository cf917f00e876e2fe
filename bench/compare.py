"""Compares a run with the newest committed one of the same machine."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import same_machine

RESULTS = Path(__file__).parent / "results"
THRESHOLD = 1.10

Document = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """How one of our figures moved: ``ratio`` is new time over old, each relative to its own run's yardstick."""

    case: str
    params: dict[str, Any]
    provider: str
    mode: str
    ratio: float
    regressed: bool


def newest(directory: Path, case: str, machine: dict[str, Any]) -> Document | None:
    """The newest quiet run of a case on a machine, among the JSON files of a directory."""
    found = []
    for path in sorted(directory.glob("*.json")):
        document = json.loads(path.read_text())
        has_case = any(r["case"] == case for r in document["results"])
        if has_case and not document["noisy"] and same_machine(document["machine"], machine):
            found.append(document)
    return max(found, key=lambda document: document["time"], default=None)


def compare(old: Document, new: Document, case: str) -> list[Change]:
    """Changes of our figures in one case.

    Times are taken relative to a yardstick timed in the same rounds (the machine's measured limit, else the geometric
    mean of the peers that both runs have), so that a slower clock or a busy neighbour is no regression. A figure has
    regressed when its relative median rose by more than THRESHOLD and its fastest tenth is slower than the old
    slowest tenth: noise moves the one, not both.

    Raises:
        ValueError: the runs come from different machines.
    """
    if not same_machine(old["machine"], new["machine"]):
        raise ValueError(
            f"compare: runs of different machines cannot be compared: {old['machine']['cpu']} with"
            f" {old['machine']['cores']} cores, {new['machine']['cpu']} with {new['machine']['cores']} cores"
        )
    before, after = _by_key(old, case), _by_key(new, case)
    changes = []
    for key, row in after.items():
        if row["kind"] != "ours" or key not in before:
            continue
        was, now = _relative(before[key], before, after), _relative(row, after, before)
        ratio = now["median_s"] / was["median_s"]
        regressed = ratio > THRESHOLD and now["q10_s"] > was["q90_s"]
        changes.append(Change(case, row["params"], row["provider"], row["mode"], ratio, regressed))
    return changes


def _key(row: dict[str, Any], provider: str) -> tuple[str, str, str]:
    return json.dumps(row["params"], sort_keys=True), row["mode"], provider


def _by_key(document: Document, case: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = [r for r in document["results"] if r["case"] == case and r["status"] == "ok"]
    return {_key(r, r["provider"]): r for r in rows}


def _relative(row: dict[str, Any], own: dict[Any, Any], other: dict[Any, Any]) -> dict[str, float]:
    """Median and quantiles of a row over its run's yardstick; ``other`` is the run it will be compared with."""
    if row["of_limit"] is not None:
        yardstick = row["of_limit"] * row["median_s"]
    else:
        keys = [_key(row, peer) for peer in row["faster_than"]]
        logs = [math.log(own[key]["median_s"]) for key in keys if key in own and key in other]
        yardstick = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return {name: row[name] / yardstick for name in ("median_s", "q10_s", "q90_s")}
