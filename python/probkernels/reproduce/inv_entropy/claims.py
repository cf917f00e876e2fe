"""Claims and tables of the Inv-Entropy experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import (
    DRAWN,
    EXPECTED,
    INV,
    NI,
    NR,
    REPLICATION,
    SCORES,
    WORDNET,
    Lemma,
    Record,
    judged,
    mean_of,
    sources,
)  # fmt: skip

GAIN = {DRAWN: 0.10, WORDNET: 0.05}  # in AUROC over scores of replies to the original


def claims(records: Sequence[Record]) -> list[Claim]:
    """Inv-Entropy tells right replies from wrong ones better than replies to the original do, and rises with the
    temperature more often than its variants."""
    found = []
    for source in sources(records):
        found += [_gain(records, source, other) for other in REPLICATION]
        found += [_rises(records, source, other) for other in ((NI, NR) if source == DRAWN else ())]
    lemmas = [record for record in records if isinstance(record, Lemma)]
    if lemmas:
        ratios = [record.measured / record.predicted for record in lemmas]
        note = f"by seed {', '.join(f'{ratio:.3f}' for ratio in ratios)}"
        worst = max(abs(ratio - 1) for ratio in ratios)
        found.append(Claim.at_most("Lemma 2.1: |variance ÷ prediction - 1|, the worst seed", worst, 0.05, note))
    return found


def _gain(records: Sequence[Record], source: str, other: str) -> Claim:
    ours, theirs = (mean_of(records, source, name, "auroc") for name in (INV, other))
    note = f"{ours:.3f} - {theirs:.3f}"
    if source == DRAWN:
        note += f"; another program gave {EXPECTED[INV][0]:.3f} - {EXPECTED[other][0]:.3f}"
    return Claim.above(f"{source}: AUROC of {INV}, less that of {other}", ours - theirs, GAIN[source], note)


def _rises(records: Sequence[Record], source: str, other: str) -> Claim:
    ours, theirs = (mean_of(records, source, name, "tsu_two") for name in (INV, other))
    note = f"{ours:.3f} - {theirs:.3f}; another program gave {EXPECTED[INV][1]:.3f} - {EXPECTED[other][1]:.3f}"
    text = f"{source}: TSU at temperatures 0.3 and 1.4 of {INV}, less that of {other}"
    return Claim.above(text, ours - theirs, 0, note)


def tables(records: Sequence[Record]) -> list[Table]:
    """One table for each source of paraphrases."""
    return [_table(records, source) for source in sources(records)]


def _table(records: Sequence[Record], source: str) -> Table:
    rows = []
    for score in SCORES:
        if judged(records, source, score):
            expected = EXPECTED.get(score, (None,) * 3) if source == DRAWN else (None,) * 3
            row = [score]
            for what, other in zip(("auroc", "tsu_two", "tsu_four"), expected, strict=True):
                row += [f"{mean_of(records, source, score, what):.3f}", "" if other is None else f"{other:.3f}"]
            rows.append(row)
    caption = (
        f"{source}: mean of {len(judged(records, source, INV))} seeds, higher is better. TSU at two temperatures (0.3,"
        " 1.4) and at four (0.3, 0.7, 1, 1.4)."
    )
    return Table(caption, ["score", "AUROC", "expected", "TSU, two", "expected", "TSU, four", "expected"], rows)
