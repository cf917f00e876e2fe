"""Claims and tables of the experiment with deep kernel machines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    EXACT,
    EXPECTED,
    LEAST_SQUARES,
    NNGP,
    ORDERED,
    SPARSE,
    WIDTHS,
    Classified,
    Regressed,
    classified,
    regressed,
)  # fmt: skip

Records = Sequence[Classified | Regressed]
GAP = 0.04  # by which a learned representation is more accurate than the NNGP


def claims(records: Records) -> list[Claim]:
    """Machines that learn representations are more accurate than the NNGP, and the more the smaller nu is."""
    accuracy = {nu: fmean(r.accuracy for r in classified(records, nu)) for nu in ORDERED}
    nll = {nu: fmean(r.nll for r in classified(records, nu)) for nu in ORDERED}
    steps = {f"nu {b:g} after {a:g}": accuracy[b] - accuracy[a] for a, b in pairwise(ORDERED)}
    least = min(steps, key=lambda step: steps[step])
    note = ", ".join(f"{nu:g}: {value:.4f}" for nu, value in accuracy.items())
    found = [
        Claim.above("digits: least rise of accuracy over nu = inf, 100, 10, 1", steps[least], 0, f"{least}; {note}"),
        Claim.above("digits: accuracy at nu = 1 minus that of the NNGP", accuracy[1.0] - accuracy[NNGP], GAP),
    ]
    falls = [nll[a] - nll[b] for a, b in pairwise(ORDERED)]
    note = ", ".join(f"{nu:g}: {value:.3f}" for nu, value in nll.items())
    found.append(Claim.above("digits: least fall of NLL over nu = inf, 100, 10, 1", min(falls), 0, note))
    return [*found, *_of_tables(records)]


def _of_tables(records: Records) -> list[Claim]:
    """A machine on a table of UCI predicts better than linear regression, whose errors are known."""
    found = []
    for name in (*EXACT, *SPARSE):
        own = regressed(records, name, 1.0)
        if own:
            rmse, known = fmean(r.rmse for r in own), LEAST_SQUARES[name]
            found.append(Claim.at_most(f"{name}: RMSE over that of linear regression", rmse / known, 1, f"{rmse:.4f}"))
    return found


def tables(records: Records) -> list[Table]:
    """Digits by relative width; UCI tables."""
    rows = []
    for nu in WIDTHS:
        for r in classified(records, nu):
            accuracy, nll = EXPECTED[r.seed][nu]
            rows.append([f"{nu:g}", str(r.seed), f"{r.accuracy:.4f}", f"{accuracy:.3f}", f"{r.nll:.3f}", f"{nll:.3f}"])
    header = ["nu", "seed", "accuracy", "expected", "NLL", "expected NLL"]
    found = [Table("Digits, on the test set. nu = inf is the NNGP.", header, rows)]
    lines = []
    for name in (*EXACT, *SPARSE):
        for nu in (NNGP, 1.0):
            own = regressed(records, name, nu)
            if own:
                means = [f"{fmean(r.rmse for r in own):.4f}", f"{fmean(r.nll for r in own):.4f}"]
                lines.append([name, f"{nu:g}", str(len(own)), *means, f"{LEAST_SQUARES[name]:.4f}"])
    if lines:
        header = ["table", "nu", "splits", "RMSE", "NLL", "RMSE of linear regression"]
        found.append(Table("UCI tables, means over splits, in the units of the targets.", header, lines))
    return found
