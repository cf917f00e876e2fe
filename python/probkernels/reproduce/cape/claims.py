"""Claims and tables of the CaPE experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    CONTINUED,
    EARLY,
    EXPECTED,
    FACES,
    LAST,
    MEASURES,
    OVERFIT,
    SCENARIOS,
    SELECTED,
    WAYS,
    Judged,
    Released,
    of,
    released,
)  # fmt: skip

GAINS = {"linear": 0.7, "discrete": 0.97}  # at most this share of the MSE_p of early stopping, for faces


def _scenarios(records: Sequence[Judged | Released]) -> list[str]:
    return [scenario for scenario in SCENARIOS if of(records, scenario, EARLY)]


def _ratio(records: Sequence[Judged | Released], scenario: str, one: str, other: str) -> tuple[float, str]:
    """MSE_p of one way over that of another, both means over seeds; and a note."""
    ones, others = ([r.mse_p for r in of(records, scenario, way)] for way in (one, other))
    seeds = ", ".join(f"{a / b:.2f}" for a, b in zip(ones, others, strict=True))
    expected = EXPECTED[scenario][one] / EXPECTED[scenario][other]
    return fmean(ones) / fmean(others), f"by seed {seeds}; another program gave {expected:.2f}"


def claims(records: Sequence[Judged | Released]) -> list[Claim]:
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
    return [*_of_faces(released(records)), *found]


def _of_faces(faces: Sequence[Released]) -> list[Claim]:
    """Of the authors' predictions: what CaPE gains, and whether our measures agree with those of another program."""
    mse = {(face.scenario, face.model): face.figures["mse_p"] for face in faces}
    found = []
    for scenario, most in GAINS.items() if faces else ():
        cape, early, overfit = (mse[scenario, name] for name in ("cape_bin", "early_stop", "overfit"))
        note = f"{cape:.5f} ÷ {early:.5f}"
        text = f"faces, {scenario}: MSE_p, ratio of"
        found.append(Claim.at_most(f"{text} CaPE to early stopping", cape / early, most, note))
        note = f"{overfit:.5f} ÷ {early:.5f}"
        found.append(Claim.above(f"{text} all epochs on outcomes to early stopping", overfit / early, 2, note))
    if faces:
        gap, note = max(_gaps(faces))
        found.append(Claim.at_most("faces: largest distance from a figure of another program", gap, 1e-4, note))
        worst = max(abs(face.identity) for face in faces)
        note = "0 but for the draw of 4,738 outcomes"
        found.append(Claim.at_most("faces: |Brier - MSE_p - mean of p (1 - p)|, the worst model", worst, 0.0065, note))
    return found


def _gaps(faces: Sequence[Released]) -> list[tuple[float, str]]:
    return [
        (abs(face.figures[name] - value), f"{name} of {face.model}, {face.scenario}; {len(MEASURES)} of each model")
        for face in faces
        for name, value in zip(MEASURES, FACES[face.scenario, face.model], strict=True)
    ]


def tables(records: Sequence[Judged | Released]) -> list[Table]:
    """The table of all ways in all scenarios, and that of the released predictions."""
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
    found = [Table(caption, ["scenario", "training", "MSE_p", "ECE", "Brier", "expected MSE_p"], rows)]
    faces = released(records)
    if faces:
        lines = [
            [r.scenario, r.model, *(f"{x:.5f}" for x in r.figures.values()), f"{r.ece:.4f}", f"{r.identity:+.4f}"]
            for r in faces
        ]
        header = ["scenario", "model", *MEASURES, "ECE", "Brier - MSE_p - mean p (1 - p)"]
        found.insert(0, Table("The authors' predictions for 4,738 faces.", header, lines))
    return found
