"""Claims and tables of the Prob-PSENN experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    EPISTEMIC,
    EXPECTED_ACCURACY,
    EXPECTED_AUROC,
    EXPECTED_EPISTEMIC,
    EXPECTED_MSE,
    EXPECTED_OWN,
    EXPECTED_WRONG,
    POINT,
    PROB,
    SCORES,
    TOTAL,
    WAYS,
    Judged,
    auroc_of,
    of,
)


def claims(records: Sequence[Judged]) -> list[Claim]:
    """Gaussians cost no accuracy, and their spread finds unknown classes."""
    prob, point = of(records, PROB), of(records, POINT)
    accuracy = fmean(r.accuracy for r in prob) - fmean(r.accuracy for r in point)
    seeds = ", ".join(f"{r.auroc[EPISTEMIC]:.3f}" for r in prob)
    gain = auroc_of(records, PROB, TOTAL) - auroc_of(records, POINT, TOTAL)
    gains = ", ".join(f"{a.auroc[TOTAL] - b.auroc[TOTAL]:.3f}" for a, b in zip(prob, point, strict=True))
    known, unknown = (fmean(r.epistemic[side] for r in prob) for side in (0, 1))
    expected = EXPECTED_EPISTEMIC[PROB]
    return [
        Claim.above("accuracy, Gaussians minus points", accuracy, -0.01, "another program gave 0.003"),
        Claim.above(
            "AUROC of unknown classes by epistemic uncertainty", auroc_of(records, PROB, EPISTEMIC), 0.94,
            f"by seed {seeds}; another program gave {EXPECTED_AUROC[PROB][EPISTEMIC]:.3f}",
        ),
        Claim.above(
            "AUROC of unknown classes by total uncertainty, Gaussians minus points", gain, 0,
            f"by seed {gains}; another program gave 0.015",
        ),
        Claim.above(
            "epistemic uncertainty, ratio of unknown to known classes", unknown / known, 3,
            f"another program gave {expected[1] / expected[0]:.1f}",
        ),
    ]  # fmt: skip


def tables(records: Sequence[Judged]) -> list[Table]:
    """AUROCs by all scores, and what else was measured."""
    rows, others = [], []
    for way in WAYS:
        own = of(records, way)
        for score in SCORES:
            rows.append([way, score, f"{auroc_of(records, way, score):.3f}", f"{EXPECTED_AUROC[way][score]:.3f}"])
        known, unknown = (fmean(r.epistemic[side] for r in own) for side in (0, 1))
        figures: list[tuple[str, float, float]] = [
            ("accuracy", fmean(r.accuracy for r in own), EXPECTED_ACCURACY[way]),
            ("AUROC of wrong predictions by total uncertainty", fmean(r.wrong for r in own), EXPECTED_WRONG[way]),
            ("epistemic uncertainty, known classes, in nats", known, EXPECTED_EPISTEMIC[way][0]),
            ("epistemic uncertainty, unknown classes, in nats", unknown, EXPECTED_EPISTEMIC[way][1]),
            ("mean square of reconstruction errors", fmean(r.mse for r in own), EXPECTED_MSE[way]),
        ]
        others += [[way, name, f"{value:.3f}", f"{expected:.3f}"] for name, value, expected in figures]
    share = fmean(r.own for r in of(records, PROB))
    others.append([PROB, "decoded draws nearest to their own prototype", f"{share:.3f}", f"{EXPECTED_OWN:.3f}"])
    seeds = len(of(records, PROB))
    return [
        Table(f"AUROC of unknown against known classes, mean of {seeds} seeds. Higher is better.",
              ["prototypes", "score", "AUROC", "expected"], rows),
        Table(f"Means of {seeds} seeds on known classes.", ["prototypes", "figure", "measured", "expected"], others),
    ]  # fmt: skip
