"""Claims and tables of the experiment on prior-fitted networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    BARS,
    BEST_GAUSSIAN,
    BUDGETS,
    ENTROPY,
    EXPECTED_COINS,
    EXPECTED_EXACT,
    EXPECTED_FLOORS,
    EXPECTED_GAPS,
    GAUSSIAN,
    PAPER_TABLES,
    POINT,
    SHEET,
    SMALL,
    Coins,
    Fitted,
    Floors,
    Modes,
    Tabular,
    fitted_of,
    ranks,
)


def claims(records: Sequence[Any]) -> list[Claim]:
    """Networks approach the exact posterior predictive, and bars describe what a Gaussian cannot."""
    coins = of_kind(records, Coins)[0]
    found = [
        Claim.at_most(
            "largest error of a coin's probability", coins.largest, 0.05, f"another program gave {EXPECTED_COINS[0]}"
        ),
        Claim.at_most("mean error of a coin's probability", coins.mean, 0.01,
                      f"another program gave {EXPECTED_COINS[1]}"),
        Claim.at_most("relative error of the binning floors", of_kind(records, Floors)[0].worst(), 0.02,
                      "expected figures have three to four digits"),
    ]  # fmt: skip
    loss = {run.head: run.nll for run in of_kind(records, Modes)}
    gain = loss[GAUSSIAN] - loss[BARS]
    best = f"the best possible gain is {BEST_GAUSSIAN - ENTROPY:.2f}"
    found.append(Claim.above("nats that bars gain on a Gaussian head where there are two modes", gain, 1.5, best))
    moved = max(run.order for run in of_kind(records, Fitted))
    found.append(Claim.at_most("change of predictions when contexts change places, float64", moved, 1e-10))
    found += _gap_claims(records, SMALL, 1.5)
    if fitted_of(records, SHEET, BARS):
        found += _gap_claims(records, SHEET, 2.0)
        last = fitted_of(records, SHEET, BARS, BUDGETS[SHEET][1])[0]
        note = f"another program gave {max(EXPECTED_GAPS[BARS, 3738].values())}"
        found.append(Claim.at_most("largest gap to the exact GP over all numbers of contexts", max(last.gap.values()),
                                   0.15, note))  # fmt: skip
    return found


def _gap_claims(records: Sequence[Any], setting: str, bound: float) -> list[Claim]:
    few, many = (fitted_of(records, setting, BARS, steps)[0] for steps in BUDGETS[setting])
    n = POINT[setting]
    text = f"{setting}: gap to the exact posterior at n = {n}, {few.steps} steps over {many.steps}"
    return [Claim.above(text, few.gap[n] / max(many.gap[n], 1e-6), bound, f"{few.gap[n]:.3f} and {many.gap[n]:.3f}")]


def tables(records: Sequence[Any]) -> list[Table]:
    """All gaps, floors and, where there are any, ranks on real tables."""
    rows = []
    for run in of_kind(records, Fitted):
        expected = EXPECTED_GAPS.get((run.head, run.steps), {}) if run.setting == SHEET else {}
        for n, gap in run.gap.items():
            known = f"{EXPECTED_EXACT[n]:.3f}" if run.setting == SHEET else ""
            other = f"{expected[n]:.3f}" if expected else ""
            rows.append(
                [run.setting, run.head, str(run.steps), str(n), f"{run.exact[n]:.3f}", known, f"{gap:.3f}", other]
            )
    header = ["prior", "head", "steps", "contexts", "exact NLL", "expected", "gap", "expected gap"]
    found = [
        Table("Gap: negative log-likelihood of the network minus that of the exact posterior, nats.", header, rows)
    ]
    lines = [
        [str(round(bars)), f"{mean:g}", f"{std:g}", f"{nats:.4f}", f"{EXPECTED_FLOORS[round(bars), mean, std]:g}"]
        for run in of_kind(records, Floors)
        for bars, mean, std, nats in run.values
    ]
    caption = "Binning floors: KL divergence of the best bars from a normal distribution, nats."
    found.append(Table(caption, ["bars", "mean", "std", "measured", "expected"], lines))
    heads = [[run.head, str(run.steps), f"{run.nll:.3f}"] for run in of_kind(records, Modes)]
    best = [["entropy, for bars", "", f"{ENTROPY}"], ["best Gaussian", "", f"{BEST_GAUSSIAN}"]]
    found.append(Table("Negative log-likelihood of two modes, nats.", ["head", "steps", "NLL"], heads + best))
    return found + _real(records)


def _real(records: Sequence[Any]) -> list[Table]:
    rows = of_kind(records, Tabular)
    if not rows:
        return []
    lines = []
    for name, (rank, auc, ece) in ranks(records).items():
        paper = [f"{value:.3f}" for value in PAPER_TABLES[name]]
        lines.append([name, f"{rank:.2f}", paper[0], f"{auc:.3f}", f"{ece:.3f}", paper[1]])
    count = len({r.table for r in rows})
    caption = (
        f"{count} real tables, 30 training rows: mean rank of ROC AUC among {len(lines)} models, 1 is best (paper:"
        f" among 8, other tables, tuned). The network had {rows[0].steps} steps."
    )
    each = [[r.table, r.model, f"{r.auc:.3f}", f"{r.ece:.3f}"] for r in rows]
    return [
        Table(caption, ["model", "rank", "paper", "AUC", "ECE", "paper's ECE"], lines),
        Table("Every table.", ["table", "model", "AUC", "ECE"], each),
    ]
