"""Claims and tables of the NoProp experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    BP,
    CHAIN,
    CT,
    DEPTHS,
    DIGITS,
    DT,
    EXPECTED,
    ONE_BLOCK,
    WAYS,
    Kept,
    Trained,
    accuracy,
    kept,
)  # fmt: skip


def claims(records: Sequence[Trained | Kept]) -> list[Claim]:
    """DT is as good as back-propagation and better than CT, with the memory of one block."""
    ours, theirs, continuous = (accuracy(records, DIGITS, way) for way in (DT, BP, CT))
    of_block, of_chain = (kept(records, way) for way in (ONE_BLOCK, CHAIN))
    few, many = DEPTHS[0], DEPTHS[-1]
    note = f"{ours:.4f}; another program gave {EXPECTED[DT]:.4f}"
    found = [Claim.at_most("digits: test error of NoProp-DT", 1 - ours, 0.03, note)]
    note = f"{theirs:.4f} and {ours:.4f}"
    found.append(
        Claim.at_most("digits: accuracy of back-propagation less that of NoProp-DT", theirs - ours, 0.01, note)
    )
    note = f"{ours:.4f} and {continuous:.4f}"
    found.append(Claim.above("digits: accuracy of NoProp-DT less that of NoProp-CT", ours - continuous, 0.03, note))
    text = f"bytes kept for backward, {many} blocks over {few}"
    found.append(Claim.at_most(f"{text}: {ONE_BLOCK}", of_block[many] / of_block[few], 1, f"{of_block[many]} bytes"))
    found.append(Claim.above(f"{text}: {CHAIN}", of_chain[many] / of_chain[few], 4, f"{of_chain[many]} bytes"))
    return found


def tables(records: Sequence[Trained | Kept]) -> list[Table]:
    """Accuracies of all ways on all data sets, and bytes by depth."""
    rows = []
    for data in dict.fromkeys(r.data for r in of_kind(records, Trained)):
        for way in WAYS:
            own = [r for r in of_kind(records, Trained) if (r.data, r.way) == (data, way)]
            if own:
                runs = [a for r in own for a in r.accuracies]
                expected = f"{EXPECTED[way]:.4f}" if data == DIGITS and way in EXPECTED else ""
                spread = f"{min(runs):.4f} to {max(runs):.4f}"
                mean = f"{accuracy(records, data, way):.4f}"
                rows.append([data, way, str(own[0].epochs), str(len(own)), mean, spread, expected])
    header = ["data", "way", "epochs", "seeds", "test accuracy", "inference runs", "expected"]
    found = [Table("Mean over seeds and inference runs. Higher is better.", header, rows)]
    bytes_of = [(way, kept(records, way)) for way in (ONE_BLOCK, CHAIN)]
    lines = [[way, *(str(of.get(count, "")) for count in DEPTHS)] for way, of in bytes_of]
    return [*found, Table("Bytes kept for backward.", ["way", *(f"{count} blocks" for count in DEPTHS)], lines)]
