"""Claims and tables of the CaPE experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import CONTINUED, EARLY, EXPECTED, LAST, OVERFIT, SCENARIOS, SELECTED, WAYS, Judged, of


def _scenarios(records: Sequence[Judged]) -> list[str]:
    return [scenario for scenario in SCENARIOS if of(records, scenario, EARLY)]


def _ratio(records: Sequence[Judged], scenario: str, one: str, other: str) -> tuple[float, str]:
    """MSE_p of one way over that of another, both means over seeds; and a note."""
    ones, others = ([r.mse_p for r in of(records, scenario, way)] for way in (one, other))
    seeds = ", ".join(f"{a / b:.2f}" for a, b in zip(ones, others, strict=True))
    expected = EXPECTED[scenario][one] / EXPECTED[scenario][other]
    return fmean(ones) / fmean(others), f"by seed {seeds}; another program gave {expected:.2f}"


def claims(records: Sequence[Judged]) -> list[Claim]:
    """Outcomes are memorized; CaPE memorizes them less, and its choice by validation loses nothing."""
    found = []
    for scenario in _scenarios(records):
        text = f"{scenario}: MSE_p, ratio of"
        memorized, note = _ratio(records, scenario, OVERFIT, EARLY)
        found.append(Claim.above(f"{text} all epochs on outcomes to early stopping", memorized, 2, note))
        longer, note = _ratio(records, scenario, LAST, CONTINUED)
        found.append(Claim.at_most(f"{text} CaPE to outcomes after 60 more epochs", longer, 0.97, note))
        chosen, note = _ratio(records, scenario, SELECTED, EARLY)
        found.append(Claim.at_most(f"{text} CaPE, chosen by validation, to early stopping", chosen, 1.1, note))
    return found


def tables(records: Sequence[Judged]) -> list[Table]:
    """The table of all ways in all scenarios."""
    rows = []
    for scenario in _scenarios(records):
        for way in WAYS:
            own = of(records, scenario, way)
            if own:
                means = [
                    f"{fmean(values):.4f}" for values in zip(*((r.mse_p, r.ece, r.brier) for r in own), strict=True)
                ]
                rows.append([scenario, way, *means, f"{EXPECTED[scenario][way]:.4f}"])
    caption = "Means over seeds, on the test set. Lower is better."
    return [Table(caption, ["scenario", "training", "MSE_p", "ECE", "Brier", "expected MSE_p"], rows)]
