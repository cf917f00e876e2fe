"""Claims and tables of the h-calibration experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import BEFORE, DRAWN, EXPECTED, LIKELIHOOD, MAPS, SELECTED, TS, Calibrated, mean_of, runs_of


def claims(records: Sequence[Calibrated]) -> list[Claim]:
    """All claims for which there are records."""
    found = [_right_temperature(records), _less_loss(records)] if runs_of(records, DRAWN, TS) else []
    ours = [record for record in records if record.way in (*MAPS, *SELECTED.values())]
    changed = sum(record.changed for record in ours)
    found.append(Claim.at_most("samples whose predicted class changes", changed, 0, f"in {len(ours)} fits"))
    for data in dict.fromkeys(record.data for record in records):
        for way in MAPS:
            if runs_of(records, data, way):
                found += _of_map(records, data, way)
    return found


def _right_temperature(records: Sequence[Calibrated]) -> Claim:
    factors = [run.factor for run in runs_of(records, DRAWN, TS) if run.factor is not None]
    note = f"by seed {', '.join(f'{factor:.3f}' for factor in factors)}; another program gave 0.506, 0.499, 0.492"
    worst = max(abs(factor - 0.5) for factor in factors)
    return Claim.at_most("drawn logits: |factor - 0.5| of the temperature, the worst seed", worst, 0.03, note)


def _less_loss(records: Sequence[Calibrated]) -> Claim:
    after, before = (mean_of(records, DRAWN, way, "loss") for way in (TS, BEFORE))
    note = f"{after:.4f} ÷ {before:.4f}; another program gave 0.013 ÷ 0.070"
    return Claim.at_most("drawn logits: loss of h-calibration, after ÷ before", after / before, 0.3, note)


def _of_map(records: Sequence[Calibrated], data: str, way: str) -> list[Claim]:
    before, after = (mean_of(records, data, each, "ece") for each in (BEFORE, way))
    expected = EXPECTED.get((data, way))
    note = f"{before:.4f} ÷ {after:.4f}"
    if expected is not None:
        note += f"; another program gave {EXPECTED[data, BEFORE][0]:.4f} ÷ {expected[0]:.4f}"
    ours, best = (mean_of(records, data, each, "nll") for each in (way, LIKELIHOOD))
    return [
        Claim.above(f"{data}, {way}: ECE before ÷ after", before / after, 4, note),
        Claim.at_most(
            f"{data}, {way}: negative log-likelihood, less that of the best temperature",
            ours - best,
            0.003,
            f"{ours:.4f} - {best:.4f}",
        ),
    ]


def tables(records: Sequence[Calibrated]) -> list[Table]:
    """One table for each data set."""
    return [_table(records, data) for data in dict.fromkeys(record.data for record in records)]


def _table(records: Sequence[Calibrated], data: str) -> Table:
    rows = []
    for way in (BEFORE, LIKELIHOOD, *MAPS, *SELECTED.values()):
        if not runs_of(records, data, way):
            continue
        figures = [mean_of(records, data, way, what) for what in ("ece", "mass_ece", "ks", "class_wise", "nll")]
        expected = EXPECTED.get((data, way), (None, None))
        name = " ".join(filter(None, (way, *(f"({run.map})" for run in runs_of(records, data, way) if run.map))))
        rows.append([name, *(f"{x:.4f}" for x in figures), *("" if x is None else f"{x:.4f}" for x in expected)])
    seeds = len(runs_of(records, data, BEFORE))
    caption = f"{data}: calibration errors and likelihood, lower is better" + (
        f"; mean of {seeds} seeds." if seeds > 1 else "."
    )
    header = ["calibrated by", "ECE", "ECE, equal mass", "KS", "class-wise ECE", "NLL", "expected ECE", "expected NLL"]
    return Table(caption, header, rows)
