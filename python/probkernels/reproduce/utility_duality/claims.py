"""Claims and tables of the experiment on utility-probability duality."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from ..harness.method import Claim, Table
from .records import EXACT, EXPECTED, EXPECTED_BEST, EXPECTED_NLL_B, SCALES, SHARES, mean_drawn, of_digits, of_sequences


def claims(records: Sequence[Any]) -> list[Claim]:
    """A larger scale helps drawing, leaves the most probable option, and is not what likelihood asks for."""
    runs = of_digits(records)
    found = [_gain_at(records, b, bound) for b, bound in ((2.0, 0.15), (4.0, 0.2))]
    gained = fmean(run.held_out[1] - run.held_out[0] for run in runs)
    scales = ", ".join(f"{run.fitted_b:.3g}" for run in runs)
    text = "digits: accuracy of a drawn class at the b fitted to it, less that at b = 1, on other samples"
    found.append(Claim.above(text, gained, 0.2, f"b by seed {scales}"))
    changed = sum(run.changed for run in runs)
    found.append(Claim.at_most("digits: samples whose most probable class changes with b", changed, 0))
    note = f"by seed {', '.join(f'{run.nll_b:.2f}' for run in runs)}; another program gave {EXPECTED_NLL_B[0]:.2f}"
    text = "digits: b of the largest likelihood of noisy labels, the mean: the opposite direction"
    found.append(Claim.at_most(text, fmean(run.nll_b for run in runs), 0.95, note))
    sequences = of_sequences(records)
    worst = max(max(abs(r.token - EXACT[r.b][0]), abs(r.sequence - EXACT[r.b][1])) for r in sequences)
    found.append(Claim.at_most("sequences: largest distance from the exact probabilities", worst, 1e-6))
    wrong = max(1 - record.best for record in sequences)
    found.append(Claim.at_most("sequences: errors of the most probable one", wrong, 0))
    return found


def _gain_at(records: Sequence[Any], b: float, bound: float) -> Claim:
    gained = mean_drawn(records, b) - mean_drawn(records, 1.0)
    note = f"{mean_drawn(records, b):.3f} - {mean_drawn(records, 1.0):.3f}; another program gave"
    note += f" {EXPECTED[b][0]:.3f} - {EXPECTED[1.0][0]:.3f}"
    return Claim.above(f"digits: accuracy of a drawn class at b = {b:g}, less that at b = 1", gained, bound, note)


def tables(records: Sequence[Any]) -> list[Table]:
    """Rules by scale for each share of random labels, and exact sequences."""
    found = [_of_share(records, share) for share in SHARES if of_digits(records, share)]
    rows = []
    for record in of_sequences(records):
        exact = EXACT[record.b]
        rows.append([f"{record.b:.3g}", f"{record.token:.7f}", f"{exact[0]:.7f}", f"{record.sequence:.7f}",
                     f"{exact[1]:.7f}", f"{record.best:g}"])  # fmt: skip
    header = ["b", "right token", "exact", "six right tokens", "exact, six", "most probable sequence"]
    return [*found, Table("One token of probability 0.85 and 19 others: probability that a drawn one is right.",
                          header, rows)]  # fmt: skip


def _of_share(records: Sequence[Any], share: float) -> Table:
    runs = of_digits(records, share)
    columns = {f"drawn, b = {b:g}": ([run.drawn[b] for run in runs], EXPECTED.get(b)) for b in SCALES}
    columns["most probable class"] = [run.best for run in runs], EXPECTED_BEST
    columns["b of the best likelihood"] = [run.nll_b for run in runs], EXPECTED_NLL_B
    columns["b of the largest gain"] = [run.fitted_b for run in runs], None
    for place, b in enumerate(("b = 1", "fitted b")):
        columns[f"drawn, {b}, other half"] = [run.held_out[place] for run in runs], None
        columns[f"abstaining at cost 0.2, {b}, other half"] = [run.abstaining[place] for run in runs], None
    rows = []
    for name, (values, expected) in columns.items():
        spread = f"{stdev(values):.3f}" if len(values) > 1 else ""
        shown = "" if expected is None or share != 0.3 else f"{expected[0]:.3f} ({expected[1]:.3f})"
        rows.append([name, f"{fmean(values):.3f}", spread, shown])
    caption = f"Digits, {100 * share:g} % of training labels random: accuracy on clean labels, {len(runs)} seeds."
    return Table(caption, ["rule", "mean", "standard deviation", "expected"], rows)
