"""Claims and tables of the experiment with learned proximal networks."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import (
    BOUNDS,
    EXPECTED_ERROR,
    EXPECTED_F,
    EXPECTED_R,
    EXPECTED_RMSE,
    L2,
    PM,
    POINTS,
    PRIOR_POINTS,
    WAYS,
    Trained,
    cases,
    of,
    posterior_mean,
    soft,
)


def claims(records: Sequence[Trained]) -> list[Claim]:
    """Proximal matching finds the posterior's mode and the prior; squared error finds the mean and another prior."""
    return [claim for case in cases(records) for claim in _of_case(records, case)]


def _of_case(records: Sequence[Trained], case: str) -> list[Claim]:
    l2, pm, bounds = of(records, L2, case), of(records, PM, case), BOUNDS[case]
    off = max(abs(f - posterior_mean(y)) for y, f in zip(POINTS, l2.f, strict=True))
    ratio = f"{pm.rmse:.3f} ÷ {l2.rmse:.3f}; another program gave {EXPECTED_RMSE[PM] / EXPECTED_RMSE[L2]:.2f}"
    note, end = "another program gave {:.3g} with all steps", "largest |R - |x|| on [-2.5, 2.5]"
    residual = max(r.residual for r in records if r.case == case)
    matching, squared = f"{case}: proximal matching", f"{case}: squared error"
    rmse = note.format(EXPECTED_RMSE[PM])
    return [
        Claim.at_most(f"{matching}, RMSE to the soft threshold", pm.rmse, bounds[0], rmse),
        Claim.at_most(f"{matching}, that RMSE over that of squared error", pm.rmse / l2.rmse, bounds[1], ratio),
        Claim.at_most(f"{squared}, largest distance from the posterior mean, seven points", off, 0.05),
        Claim.at_most(f"{matching}, {end}", pm.error, bounds[2], note.format(EXPECTED_ERROR[PM])),
        Claim.above(f"{squared}, {end}", l2.error, bounds[2], note.format(EXPECTED_ERROR[L2])),
        Claim.at_most(f"{case}: largest residual of an inversion", residual, 1e-6),
    ]


def tables(records: Sequence[Trained]) -> list[Table]:
    """Values beside the truth, and the priors."""
    exact = [("posterior mean", [posterior_mean(y) for y in POINTS]), ("soft threshold", [soft(y) for y in POINTS])]
    rows = [[name, *(f"{v:.3f}" for v in values), "", ""] for name, values in exact]
    priors = [["truth", *(f"{x:.3f}" for x in PRIOR_POINTS), "", ""]]
    for case in cases(records):
        for way in WAYS:
            r = of(records, way, case)
            rows.append([f"{way}, {case}", *(f"{v:.3f}" for v in r.f), f"{r.rmse:.3f}", f"{EXPECTED_RMSE[way]:.3f}"])
            others = ", ".join(f"{v:.3f}" for v in EXPECTED_R.get(way, ()))
            priors.append([f"{way}, {case}", *(f"{v:.3f}" for v in r.r), f"{r.error:.3f}", others])
    rows += [[f"{way}, expected", "", *(f"{v:.3f}" for v in EXPECTED_F[way]), "", "", "", ""] for way in WAYS]
    header = ["", *(f"f({y:g})" for y in POINTS), "RMSE to the soft threshold", "expected"]
    columns = ["", *(f"R({x:g})" for x in PRIOR_POINTS), "largest error on [-2.5, 2.5]", "expected R"]
    return [Table("Denoisers of a Laplace prior.", header, rows), Table("Priors, 0 at 0.", columns, priors)]
