"""Tables and plots of a result file: ``python -m probkernels.bench.report FILE [--plot DIR]``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Document = dict[str, Any]
Row = dict[str, Any]


def duration(seconds: float) -> str:
    """Three digits with a fitting unit."""
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
    modes = list(dict.fromkeys(row["mode"] for row in rows if row["mode"] != "all")) or ["all"]
    main = next((r["provider"] for r in rows if r["kind"] == "ours" and r["status"] == "ok"), None)
    by_key = {(row["provider"], row["mode"]): row for row in rows}
    lines = [["provider", *modes, "error", "note"], ["---"] * (len(modes) + 3)]
    for name in dict.fromkeys(row["provider"] for row in sorted(rows, key=lambda r: r["kind"] != "ours")):
        own = [row for row in rows if row["provider"] == name]
        label = f"limit: {name}" if own[0]["kind"] == "limit" else name
        cells = [_cell(by_key.get((name, mode), by_key.get((name, "all"))), by_key.get((main, mode))) for mode in modes]
        error = "" if own[0]["error"] is None else f"{own[0]['error']:.0e}"
        lines.append([label, *cells, error, own[0]["reason"].split("\n")[0][:100]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def header(document: Document) -> str:
    """What ran where, in a few lines."""
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
    """The whole report in markdown."""
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


def plot(document: Document, case: str, path: Path) -> bool:
    """Draws time against bytes moved, with the measured limit, in the case's last mode; one panel per dtype and thread
    count. False when matplotlib is missing or the case moves nothing that counts."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    rows = [r for r in document["results"] if r["case"] == case and r["status"] == "ok" and r["bytes"]]
    rows = [r for r in rows if r["mode"] == rows[-1]["mode"]]
    if not rows:
        return False
    panels = list(dict.fromkeys((r["params"]["dtype"], r["params"]["threads"]) for r in rows))
    figure = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        inside = [r for r in rows if (r["params"]["dtype"], r["params"]["threads"]) == panel]
        for name in dict.fromkeys(r["provider"] for r in inside if r["kind"] != "limit"):
            own = [r for r in inside if r["provider"] == name]
            axes.plot([r["bytes"] for r in own], [r["median_s"] for r in own], "o", label=name, alpha=0.8)
        limit: dict[int, float] = {}
        for r in inside:
            if r["kind"] == "limit":
                limit[r["bytes"]] = min(r["median_s"], limit.get(r["bytes"], float("inf")))
        axes.plot(sorted(limit), [limit[size] for size in sorted(limit)], "k-", label="measured limit")
        axes.set(xscale="log", yscale="log", xlabel="bytes moved", ylabel=f"seconds, {rows[0]['mode']}")
        axes.set_title(f"{case}, {panel[0]}, {panel[1]} threads")
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    return True


def main() -> None:
    """Prints the tables of a result file and, with --plot, writes one picture per case."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write DIR/CASE.png")
    arguments = parser.parse_args()
    document = json.loads(arguments.file.read_text())
    print(text(document))
    if arguments.plot is not None:
        arguments.plot.mkdir(parents=True, exist_ok=True)
        for case in dict.fromkeys(row["case"] for row in document["results"]):
            path = arguments.plot / f"{case}.png"
            print(f"wrote {path}" if plot(document, case, path) else f"no plot for {case}")


if __name__ == "__main__":
    main()
