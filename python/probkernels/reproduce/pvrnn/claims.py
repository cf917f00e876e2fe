"""Claims and tables of the PV-RNN experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    DATA,
    EXPECTED,
    EXPECTED_ONLINE,
    LARGE,
    MIDDLE,
    SMALL,
    WAYS,
    WEIGHTS,
    Online,
    Predicted,
    Record,
    of_w,
    predicted,
)  # fmt: skip

TRUE_COIN = 0.3


def claims(records: Sequence[Record]) -> list[Claim]:
    """A middle w keeps grammar and coin; a large one loses the coin, a small one the grammar."""
    large, middle, small = (of_w(records, w) for w in (LARGE, MIDDLE, SMALL))
    coin = fmean(r.coin for r in middle)
    found = [
        Claim.above(f"w = {MIDDLE}: free runs keep the grammar", fmean(r.grammar for r in middle), 0.98),
        Claim.at_most(
            f"w = {MIDDLE}: distance of the coin's rate from 0.31", abs(coin - 0.31), 0.11, f"{coin:.3f}, data 0.3"
        ),
        Claim.at_most(f"w = {LARGE:g}: the coin's rate is lost", fmean(r.coin for r in large), 0.05),
        Claim.at_most(f"w = {SMALL}: the grammar breaks", fmean(r.grammar for r in small), 0.8),
    ]
    online = of_kind(records, Online)
    text = f"w = {MIDDLE}: error regression, fixed symbols one step ahead, window full"
    return [*found, Claim.above(text, fmean(r.fixed for r in online), 0.98)]


def tables(records: Sequence[Record]) -> list[Table]:
    """All networks, error regression, and movements of ``--data``."""
    found = [_trained(records), _online(records)]
    return [*found, _predicted(records)] if of_kind(records, Predicted) else found


def _trained(records: Sequence[Record]) -> Table:
    rows = []
    for w in WEIGHTS:
        for r in of_w(records, w):
            figures = (r.rec, r.kl, r.regenerated, r.grammar, r.coin, r.varied)
            rows.append(
                [f"{w:g}", str(r.seed), *(f"{a:.3f} ({b:g})" for a, b in zip(figures, EXPECTED[w], strict=True))]
            )
    header = ["w", "seed", "rec", "KL", "regenerated", "grammar", "rate of 1 at the coin", "differs between runs"]
    return Table("Networks, measured (and those of another program, one seed).", header, rows)


def _online(records: Sequence[Record]) -> Table:
    rows = [
        [f"{r.w:g}", str(r.seed), *(f"{a:.3f} ({b:.3f})" for a, b in zip((r.fixed, r.early, r.coin), EXPECTED_ONLINE,
                                                                        strict=True))]
        for r in of_kind(records, Online)
    ]  # fmt: skip
    header = ["w", "seed", "fixed symbols, window full", "before", "coin"]
    return Table("Error regression: accuracy one step ahead on unseen sequences (another program).", header, rows)


def _predicted(records: Sequence[Record]) -> Table:
    rows, ahead = [], sorted(of_kind(records, Predicted)[0].rmse)
    for data in DATA:
        for way in WAYS:
            own = predicted(records, data, way)
            if own:
                rows.append([data, way, *(f"{fmean(r.rmse[k] for r in own):.4f}" for k in ahead)])
    header = ["movements", "prediction", *(f"{k} ahead" for k in ahead)]
    return Table("Root mean square errors on unseen movements. Lower is better.", header, rows)
