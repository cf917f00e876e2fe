"""Claims and tables of the forward-learning experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import (
    BLOCKS,
    BP,
    CORA,
    CORA_ML,
    DEPTHS,
    EXPECTED,
    LINEAR,
    MEMORY_DEPTHS,
    SF,
    Memory,
    Trained,
    accuracies,
    kept,
    mean,
)  # fmt: skip

DEEP = DEPTHS[-1]
LOST = {BLOCKS: -8, CORA: -3}  # what single-forward learning may lose, in points
LEAST = {CORA_ML: 85.5}  # accuracy at every depth, in percent


def claims(records: Sequence[Trained | Memory]) -> list[Claim]:
    """Accuracy at every depth, no loss against back-propagation, and memory that depth does not change."""
    found = []
    for name in (CORA_ML, CORA, BLOCKS):
        if accuracies(records, name, SF, DEEP):
            found += _of(records, name)
    forward, backward = kept(records, SF), kept(records, BP)
    most, least = max(MEMORY_DEPTHS), min(MEMORY_DEPTHS)
    note = f"{forward[most]:,} bytes ÷ {forward[least]:,}"
    found.append(Claim.at_most(f"{SF}: bytes kept, {most} layers ÷ {least}", forward[most] / forward[least], 1, note))
    note = f"{backward[most]:,} bytes ÷ {backward[2]:,}"
    found.append(Claim.above(f"{BP}: bytes kept, {most} layers ÷ 2", backward[most] / backward[2], 3, note))
    return found


def _of(records: Sequence[Trained | Memory], name: str) -> list[Claim]:
    forward = [mean(records, name, SF, depth) for depth in DEPTHS]
    backward = mean(records, name, BP, DEEP)
    by_depth = "by depth " + ", ".join(f"{value:.2f}" for value in forward)
    gap, note = forward[-1] - backward, f"{forward[-1]:.2f} and {backward:.2f}"
    found = []
    if name in LEAST:
        found.append(Claim.above(f"{name}: {SF}, accuracy at the worst depth", min(forward), LEAST[name], by_depth))
        text = f"{name}: {SF} less {BP}, {DEEP} layers, points"
        found.append(Claim.above(text, gap, -0.5, note))
        shallow = mean(records, name, BP, 1)
        found.append(Claim.at_most(f"{name}: {BP}, one layer, accuracy", shallow, 45, "31.72 is reported"))
        return found
    linear = mean(records, name, LINEAR, 1)
    gain = f"{by_depth}; {linear:.2f} without the graph"
    found.append(Claim.above(f"{name}: {SF} less {LINEAR}, worst depth, points", min(forward) - linear, 5, gain))
    found.append(Claim.above(f"{name}: {SF} less {BP}, {DEEP} layers, points", gap, LOST[name], note))
    return found


def tables(records: Sequence[Trained | Memory]) -> list[Table]:
    """Accuracies by depth, and bytes."""
    rows = []
    for name in (CORA_ML, CORA, BLOCKS):
        for way in (SF, BP, LINEAR):
            for depth in DEPTHS:
                own = accuracies(records, name, way, depth)
                if own:
                    expected = f"{EXPECTED[name, way][depth - 1]:.2f}" if (name, way) in EXPECTED else ""
                    splits = ", ".join(f"{value:.2f}" for value in own)
                    cells = [str(depth), f"{mean(records, name, way, depth):.2f}", splits, expected]
                    rows.append([name, way, *cells])
    header = ["data", "training", "layers", "accuracy, %", "by split", "expected"]
    found = [Table("Accuracy on test nodes.", header, rows)]
    bytes_kept = [
        [way, str(depth), f"{count:,}"] for way in (SF, BP) for depth, count in sorted(kept(records, way).items())
    ]
    caption = "Bytes kept for the backward pass in one training step: 400 nodes, 128 features and hidden units."
    return [*found, Table(caption, ["training", "layers", "bytes"], bytes_kept)]
