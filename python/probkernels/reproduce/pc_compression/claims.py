"""Claims and tables of the compression experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import EXPECTED, GROWN, LARGE, SMALL, Classic, Coded, Record

BOUNDS = {("digits", SMALL): 2.10, ("MNIST", LARGE): 1.25, ("MNIST", GROWN): 1.20}  # bits a pixel of whole files


def claims(records: Sequence[Record]) -> list[Claim]:
    """All claims for which there are records."""
    files, found = of_kind(records, Coded), []
    if files:
        lost = sum(not file.same for file in files)
        found.append(Claim.at_most("files that do not decode to the images", lost, 0, f"of {len(files)}"))
    for (data, model), bound in BOUNDS.items():
        runs = runs_of(records, data, model)
        if runs:
            found += _claims_of(records, data, model, runs, bound)
    return found


def _claims_of(records: Sequence[Record], data: str, model: str, runs: list[Coded], bound: float) -> list[Claim]:
    bits = fmean(run.bits for run in runs)
    note = f"by seed {', '.join(f'{run.bits:.4f}' for run in runs)}" if len(runs) > 1 else ""
    found = [Claim.at_most(f"{data}, {model}: bits a pixel of the whole file", bits, bound, note)]
    others = [other for other in of_kind(records, Classic) if other.data == data]
    if others:
        best = min(others, key=lambda other: other.bytes)
        text, most = f"{data}, {model} ÷ the best other compressor", 0.82 if data == "digits" else 1.0
        found.append(Claim.at_most(text, bits / best.bits, most, f"{bits:.4f} ÷ {best.bits:.4f}, {best.name}"))
    if data == "MNIST":
        run = runs[0]
        gap = abs(8 * run.bytes / run.ideal - 1)
        note = f"{8 * run.bytes:,} bits, {run.ideal:,.0f} at best"
        found.append(Claim.at_most(f"{data}, {model}: the file's size against -log2 p, part", gap, 0.003, note))
    text = f"{data}, {model}: what an image by itself costs more than -log2 p, bits a pixel"
    alone, pixels = fmean(run.alone for run in runs), runs[0].pixels
    note = f"{alone * pixels:.1f} bits an image of {pixels} pixels; its payload alone, without a container"
    return [*found, Claim.at_most(text, alone, 0.02 if data == "MNIST" else 0.15, note)]


def runs_of(records: Sequence[Record], data: str, model: str) -> list[Coded]:
    """The records of every seed."""
    return [file for file in of_kind(records, Coded) if (file.data, file.model) == (data, model)]


# --- tables ---


def tables(records: Sequence[Record]) -> list[Table]:
    """A table of sizes for each data set, and a table of the model's size."""
    names = dict.fromkeys(record.data for record in records)
    found = [_sizes(records, data) for data in names] + [_break_even(records, data) for data in names]
    return [table for table in found if table.rows]


def _sizes(records: Sequence[Record], data: str) -> Table:
    lines: list[tuple[float, list[str]]] = []
    for model in dict.fromkeys(file.model for file in of_kind(records, Coded) if file.data == data):
        runs = runs_of(records, data, model)
        bits, size = fmean(run.bits for run in runs), round(fmean(run.bytes for run in runs))
        ideal = fmean(run.ideal / (run.images * run.pixels) for run in runs)
        lines.append((bits, [model, f"{size:,}", f"{bits:.4f}", f"{ideal:.4f}", EXPECTED.get((data, model), "")]))
    for other in of_kind(records, Classic):
        if other.data == data:
            row = [other.name, f"{other.bytes:,}", f"{other.bits:.4f}", "", EXPECTED.get((data, other.name), "")]
            lines.append((other.bits, row))
    caption = (
        f"{data}: sizes of the test images, lower is better; of circuits the mean of the seeds, whole files without the"
        " model. 'Best' is -log2 of the images' probability."
    )
    return Table(
        caption, ["compressor", "bytes", "bits a pixel", "best", "expected"], [row for _, row in sorted(lines)]
    )


def _break_even(records: Sequence[Record], data: str) -> Table:
    rows = []
    for model in dict.fromkeys(file.model for file in of_kind(records, Coded) if file.data == data):
        run = runs_of(records, data, model)[0]
        for other in of_kind(records, Classic):
            gain = (other.bytes - run.bytes) / run.images
            if other.data == data and gain > 0 and model in (SMALL, LARGE):
                rows.append([model, f"{run.model_bytes:,}", other.name, f"{math.ceil(run.model_bytes / gain):,}"])
    caption = f"{data}: from how many images on the model and its file together are smaller than another compressor's."
    return Table(caption, ["model", "its bytes", "against", "images"], rows)
