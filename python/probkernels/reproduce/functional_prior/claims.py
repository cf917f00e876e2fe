"""Claims and tables of functional priors."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    BOSTON,
    EXACT,
    EXPECTED,
    EXPECTED_ENERGY,
    FITTED,
    FIXED,
    PRIORS,
    TOY,
    Record,
    judged,
    matched,
    means,
)  # fmt: skip


def claims(records: Sequence[Record]) -> list[Claim]:
    """The fitted prior's functions are nearer to the process, and so is its posterior."""
    fits = matched(records, TOY)
    before, after = (fmean(getattr(f, when)["energy"] for f in fits) for when in ("before", "after"))
    note = f"{after:.3f} ÷ {before:.3f}; another program gave {EXPECTED_ENERGY[1]} ÷ {EXPECTED_ENERGY[0]}"
    found = [Claim.at_most("energy distance to the GP, ratio of after to before the fit", after / before, 0.35, note)]
    rmse, nll = ({prior: means(records, TOY, prior)[k] for prior in PRIORS} for k in range(2))
    for other, bound in ((FIXED, 0.85), (EXACT, 1.2)):
        note = f"{rmse[FITTED]:.3f} ÷ {rmse[other]:.3f}"
        text = f"RMSE of the function, ratio of {FITTED} to {other}"
        found.append(Claim.at_most(text, rmse[FITTED] / rmse[other], bound, note))
    note = f"{nll[FIXED]:.2f} - {nll[FITTED]:.2f}"
    found.append(Claim.above("NLL of the function, std 1 less fitted, nats", nll[FIXED] - nll[FITTED], 2, note))
    if judged(records, BOSTON, FITTED):
        fixed, fitted = (means(records, BOSTON, prior) for prior in (FIXED, FITTED))
        note = f"{fitted[0]:.3f} ÷ {fixed[0]:.3f}; the paper's code gave 2.797 ÷ 3.132"
        found.append(Claim.at_most("Boston: RMSE, ratio of fitted to std 1", fitted[0] / fixed[0], 1.0, note))
    return found


def tables(records: Sequence[Record]) -> list[Table]:
    """Posteriors beside the expected figures, and the fits."""
    rows = []
    for (data, prior), expected in EXPECTED.items():
        own = judged(records, data, prior)
        if own:
            rmse, nll = means(records, data, prior)
            rhat = "-" if prior == EXACT else f"{max(r.rhat for r in own):.2f}"
            figures = [f"{rmse:.3f}", f"{expected[0]}", f"{nll:.2f}", f"{expected[1]}", rhat]
            rows.append([data, prior, str(len(own)), *figures])
    header = ["data", "prior", "data sets", "RMSE", "expected", "NLL", "expected", "largest R-hat"]
    caption = "Posteriors, means over data sets. Functions of the GP: of the function itself. Boston: of test prices."
    lines = []
    for fit in (*matched(records, TOY), *matched(records, BOSTON)):
        pairs = [f"{fit.before[name]:.3f} → {fit.after[name]:.3f}" for name in fit.before]
        estimates = f"{fit.wasserstein[0]:.2f} → {fmean(fit.wasserstein[-10:]):.2f}"
        stds = ", ".join(f"{value:.2f}" for value in fit.std.values())
        lines.append([fit.data, str(fit.seed), str(len(fit.wasserstein)), *pairs, estimates, stds])
    names = ["data", "seed", "iterations", "energy distance", "sliced W1", "W1 of a point", "critic (biased)", "stds"]
    return [Table(caption, header, rows), Table("Fits of the prior, before → after.", names, lines)]
