"""Claims and tables of the experiment on sequential Bayes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    DIGITS,
    EXPECTED,
    EXPECTED_CURRENT,
    EXPECTED_STREAM,
    FASHION,
    FINE_TUNING,
    JOINT,
    MEMORIES,
    REFRESH,
    SEQUENTIAL,
    WAYS,
    Learned,
    Stream,
    final,
    learned_of,
    stream_of,
)


def claims(records: Sequence[Any]) -> list[Claim]:
    """The network fits all tasks but filtering forgets; ProtoCL with a memory does not."""
    joint, filtered = stream_of(records, JOINT), stream_of(records, SEQUENTIAL)
    current = [fmean(row[-1] for row in run.accuracy) for run in filtered]
    refreshed = learned_of(records, DIGITS, REFRESH, MEMORIES[-1])
    seeds = ", ".join(f"{run.accuracy[-1]:.3f}" for run in refreshed)
    return [
        Claim.above("accuracy of HMC on all tasks at once", _last(joint), 0.95, "another program gave 0.99"),
        Claim.at_most("accuracy on all tasks after filtering them", _last(filtered), 0.75, "another program gave 0.61"),
        Claim.above(
            "accuracy on each task right after it", fmean(current), 0.95,
            f"another program gave {fmean(EXPECTED_CURRENT):.2f}",
        ),
        Claim.above(
            "accuracy on digits of ProtoCL with a memory of 200", final(refreshed), 0.92,
            f"by seed {seeds}; another program gave 0.947",
        ),
        Claim.at_most(
            "accuracy on digits without memory", final(learned_of(records, DIGITS, FINE_TUNING, 0)), 0.25,
            "another program gave 0.197",
        ),
    ]  # fmt: skip


def _last(runs: Sequence[Stream]) -> float:
    """Accuracy over all tasks after the last one."""
    return fmean(fmean(run.accuracy[-1]) for run in runs)


def tables(records: Sequence[Any]) -> list[Table]:
    """Accuracies of all streams and learners."""
    rows = []
    for run in of_kind(records, Stream):
        for number, row in enumerate(run.accuracy):
            last = number == len(run.accuracy) - 1
            cells = [f"{value:.2f}" for value in row] + [""] * (5 - len(row))
            expected = ", ".join(f"{value:.2f}" for value in EXPECTED_STREAM[run.way]) if last else ""
            after = "all" if run.way == JOINT else f"{number + 1}"
            parts = str(run.components[number]) if run.components else ""
            rows.append([run.way, str(run.iterations), str(run.seed), after, *cells, expected, parts])
    found = [
        Table("Accuracy of HMC on each task of the stream.",
              ["posterior", "iterations", "seed", "after task", "1", "2", "3", "4", "5", "expected", "components"],
              rows)
    ]  # fmt: skip
    for data in (DIGITS, FASHION):
        lines = _learners(records, data)
        if lines:
            caption = f"Accuracy on all ten classes of {data} after the last of five tasks, mean over seeds."
            found.append(Table(caption, ["learner", "memory", "accuracy", "spread", "seeds", "expected"], lines))
    return found


def _learners(records: Sequence[Any], data: str) -> list[list[str]]:
    lines = []
    for way in WAYS:
        for memory in sorted({r.memory for r in of_kind(records, Learned)}):
            own = learned_of(records, data, way, memory)
            if own:
                expected = EXPECTED.get((way, memory)) if data == DIGITS else None
                spread = pstdev(r.accuracy[-1] for r in own)
                last = "" if expected is None else f"{expected:.3f}"
                lines.append([way, str(memory), f"{final(own):.3f}", f"{spread:.3f}", str(len(own)), last])
    return lines
