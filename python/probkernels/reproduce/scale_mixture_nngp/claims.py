"""Claims and tables of the scale-mixture experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    BURR,
    DIABETES,
    EXPECTED,
    EXPECTED_GAIN,
    FAMILIES,
    FIXED,
    GAMMA,
    LARGE,
    SIZES,
    UCI,
    Compared,
    gains,
    mean,
    of,
    with_error,
)  # fmt: skip


def claims(records: Sequence[Compared]) -> list[Claim]:
    """A mixture predicts no worse with few points, and better with more of them."""
    found = []
    for n in SIZES:
        own = of(records, DIABETES, n)
        gained = gains(own)
        note = f"over {len(own)} splits {with_error(gained)}; another program on other splits: {EXPECTED_GAIN[n]}"
        least = -0.05 if n == min(SIZES) else 0
        found.append(Claim.above(f"n = {n}: test NLL gained by the inverse gamma prior", fmean(gained), least, note))
    own = of(records, DIABETES, max(SIZES))
    expected = EXPECTED[max(SIZES)]
    note = f"another program on other splits: {expected[GAMMA]:.3f}"
    found.append(Claim.at_most(f"n = {max(SIZES)}: test NLL, {GAMMA}", mean(own, GAMMA), expected[GAMMA] + 0.1, note))
    apart = abs(mean(own, BURR) - mean(own, GAMMA))
    note = "with many points the prior hardly counts"
    found.append(Claim.at_most(f"n = {max(SIZES)}: difference of the two mixtures", apart, 0.03, note))
    return found


def tables(records: Sequence[Compared]) -> list[Table]:
    """Test NLL by size, and on UCI data."""
    header = ["points", *(f"{family}: measured (expected)" for family in FAMILIES), "gain", "expected", "scale"]
    rows = []
    for n in SIZES:
        own = of(records, DIABETES, n)
        if own:
            values = [f"{mean(own, family):.3f} ({EXPECTED[n][family]:.3f})" for family in FAMILIES]
            scale = f"{fmean(r.scale for r in own):.2f}"
            rows.append([str(n), *values, with_error(gains(own)), EXPECTED_GAIN[n], scale])
    found = [Table("Diabetes: test NLL in original units, mean over splits; gain of the inverse gamma.", header, rows)]
    large = []
    for name in (*UCI, *LARGE):
        own = of(records, name)
        if own:
            values = [with_error([r.nll[family] for r in own]) for family in FAMILIES]
            gained = [with_error(gains(own, family)) for family in (GAMMA, BURR)]
            large.append([name, str(len(own)), *values, *gained, with_error([r.rmse for r in own])])
    if large:
        header = ["data", "splits", *FAMILIES, f"gain, {GAMMA}", f"gain, {BURR}", f"RMSE, {GAMMA}"]
        found.append(Table(f"UCI: test NLL; gains over {FIXED}.", header, large))
    return found
