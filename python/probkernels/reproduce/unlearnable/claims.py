"""Claims and tables of the experiment on protected images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import EPS, EXPECTED, EXPECTED_CLEAN, EXPECTED_HALF, FEATURES, LARGE, PIXELS, SMALL, Attack, of, ways

GAINS = {FEATURES: 0.4, LARGE: 0.5, PIXELS: 0.5}  # at least, in every seed


def _each(values: Sequence[float]) -> str:
    return "by seed " + ", ".join(f"{value:.3f}" for value in values)


def claims(records: Sequence[Attack]) -> list[Claim]:
    """The estimate rises, training on protected images alone suffers, and no pixel moves too far."""
    found = []
    for way in ways(records):
        own = of(records, way)
        if way == SMALL:
            continue  # too small to change anything
        gains = [record.errors[-1] - record.errors[0] for record in own]
        text = f"{way}: gain of the estimated Bayes error, the worst seed"
        found.append(Claim.above(text, min(gains), GAINS[way], _each(gains)))
        after = [record.protected for record in own]
        note = f"{_each(after)}; another program gave {EXPECTED[way][2]:.3f}"
        if way == LARGE:
            text = f"{way}: accuracy after training on protected images, the worst seed"
            found.append(Claim.at_most(text, max(after), 0.5, note))
        else:
            losses = [record.clean - record.protected for record in own]
            text = f"{way}: accuracy lost by training on protected images, the worst seed"
            found.append(Claim.above(text, min(losses), 0.03, note))
    excess = max(record.change - EPS[record.way] for record in records)
    found.append(Claim.at_most("largest change of a pixel, less eps", excess, 1e-6))
    return found


def tables(records: Sequence[Attack]) -> list[Table]:
    """Estimates and accuracies of every way."""
    rows = []
    for way in ways(records):
        own = of(records, way)
        before, after, protected, mixed = EXPECTED[way]
        ends = [fmean(record.errors[place] for record in own) for place in (0, -1)]
        retrained = [record.retrained for record in own if record.retrained is not None]
        accuracies = [
            fmean(getattr(record, name) for record in own) for name in ("clean", "half", "protected", "mixed")
        ]
        rows.append([
            way,
            f"{ends[0]:.3f} → {ends[1]:.3f}",
            f"{fmean(retrained):.3f}" if retrained else "",
            *(f"{value:.3f}" for value in accuracies),
            "" if before is None else f"{before:.3f} → {after:.3f}",
            f"{protected:.3f}",
            f"{mixed:.3f}",
        ])  # fmt: skip
    caption = (
        "Estimated Bayes error, and accuracy on clean test images after training on all clean images, half of them, all"
        " protected images, and half clean and half protected ones; means over seeds. Another program gave"
        f" {EXPECTED_CLEAN} and {EXPECTED_HALF} for clean images."
    )
    header = ["protected by", "estimate", "after another training", "clean", "half", "protected", "mixed"]
    return [Table(caption, [*header, "expected estimate", "expected protected", "expected mixed"], rows)]
