"""Tables in addition to pytest-benchmark's: shares of the limit, ratios to the peers, and providers not timed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Document = dict[str, Any]
Row = dict[str, Any]


def duration(seconds: float) -> str:
    """A duration with three digits and a suitable unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _points(document: Document, case: str) -> list[list[Row]]:
    """The rows of a case, point by point."""
    points: dict[str, list[Row]] = {}
    for row in document["results"]:
        if row["case"] == case:
            points.setdefault(json.dumps(row["params"]), []).append(row)
    return list(points.values())


def _cell(row: Row | None, ours: Row | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return row["status"].upper() if row["status"] in ("wrong", "failed") else row["status"]
    text = duration(row["median_s"])
    if row["of_limit"] is not None:
        text += f" {100 * row['of_limit']:.0f}%"
    if row["kind"] == "peer" and ours is not None:
        ratio = ours["faster_than"][row["provider"]]
        text += f" {ratio:.2f}x" + (" LOSS" if round(ratio, 2) < 1 else "")
    return text


def point_table(rows: Sequence[Row]) -> str:
    """One point: providers down, modes across, each with median time, share of the limit, and peer's time over ours."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    main = next((r["provider"] for r in rows if r["kind"] == "ours" and r["status"] == "ok"), None)
    by_key = {(row["provider"], row["mode"]): row for row in rows}
    lines = [["provider", *modes, "error", "note"], ["---"] * (len(modes) + 3)]
    for name in dict.fromkeys(row["provider"] for row in sorted(rows, key=lambda r: r["kind"] != "ours")):
        own = [row for row in rows if row["provider"] == name]
        cells = [_cell(by_key.get((name, mode)), by_key.get((main, mode))) for mode in modes]
        error = "" if own[0]["error"] is None else f"{own[0]['error']:.0e}"
        lines.append([name, *cells, error, own[0]["reason"].split("\n")[0][:100]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def header(document: Document) -> str:
    """The software and the machine, in a few lines."""
    machine, software, limits = document["machine"], document["software"], document["limits"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    noisy = "  NOISY: more was running than there are cores\n" if document["noisy"] else ""
    streams = ", ".join(
        f"{s['op']} {s['bytes'] >> 20} MiB x{s['threads']}: {s['gb_per_s']:.1f}" for s in limits.get("stream", [])
    )
    gemms = ", ".join(f"{g['dtype']} x{g['threads']}: {g['gflop_per_s']:.0f}" for g in limits.get("gemm", []))
    dirty = " with uncommitted changes" if software["dirty"] else ""
    return (
        f"{document['time']}: {machine['cpu']}, {machine['cores']} cores{gpu}\n{noisy}"
        f"  load {machine['load_before']:.2f} before, {machine.get('load_after', float('nan')):.2f} after;"
        f" torch {software['torch']}, triton {software['triton']}, probkernels {software['probkernels']}"
        f" at {software['commit']}{dirty}\n"
        f"  measured limits, GB/s (x threads): {streams}\n  GEMM, GFLOP/s: {gemms}\n"
    )


def text(document: Document) -> str:
    """The tables of a run without pytest-benchmark, in markdown."""
    parts = [header(document)]
    cases = list(dict.fromkeys(row["case"] for row in document["results"]))
    if cases:
        parts.append(
            "Cells: median time, share of the limit that this machine reached in the same rounds, and the peer's time"
            " over ours (above 1 we win, below 1 we lose).\n"
        )
    for case in cases:
        parts.append(f"## {case}\n")
        for rows in _points(document, case):
            point = ", ".join(f"{k}={v}" for k, v in rows[0]["params"].items())
            parts.append(f"{point}\n\n{point_table(rows)}\n")
    for verdict in document["verdicts"]:
        holds = "holds" if verdict["holds"] else "DOES NOT HOLD"
        parts.append(f"{verdict['claim']}: {verdict['measured']:.3g}, expected {verdict['expected']}: {holds}")
    return "\n".join(parts)
