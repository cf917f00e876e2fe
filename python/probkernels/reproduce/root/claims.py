"""Claims and tables of the ROOT experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import ASCENT, BEST, EHRLICH, EXPECTED, GB1, LABELS, NO_LABELS, SWAPPED, TF_BIND, Proposals, mean_of

# The proposals that a claim is about, which another program was measured with, and the bound of their largest score.
TOP = {
    (TF_BIND, 3): (LABELS, 0.90),
    (TF_BIND, 6): (NO_LABELS, 0.92),
    (TF_BIND, 20): (LABELS, 0.95),
    (EHRLICH, 3): (LABELS, 0.5),
}
NOTES = {GB1: " Fitness relative to the wild type, 0 where it was not measured; reported without a claim."}


def claims(records: Sequence[Proposals]) -> list[Claim]:
    """The best proposal is far above the data, and on TF-Bind-8 so is the typical one."""
    found = []
    for task, epochs in (size for size in sizes(records) if size in TOP):
        part = [r for r in records if (r.task, r.epochs) == (task, epochs)]
        best = mean_of(part, epochs, BEST, "top")
        note = f"the best design of the data has {best:.3f}"
        method, bound = TOP[task, epochs]
        expected = EXPECTED.get((task, epochs, method))
        note += "" if expected is None else f"; another program gave {expected[0]}"
        note += "; single trainings differ by 0.014 (standard deviation)" if epochs == 20 else ""
        text = f"{task}, {epochs} epochs: largest score of 128 proposals of {method}"
        found.append(Claim.above(text, mean_of(part, epochs, method, "top"), bound, note))
        if task == TF_BIND:
            gain = mean_of(part, epochs, method, "middle") - best
            text = f"{task}, {epochs} epochs: median score of these proposals − best score of the data"
            found.append(Claim.above(text, gain, 0.07))
    return found


def tables(records: Sequence[Proposals]) -> list[Table]:
    """Largest, 80th and 50th percentile of every method's proposals."""
    found = []
    for task, epochs in sizes(records):
        part = [r for r in records if (r.task, r.epochs) == (task, epochs)]
        rows = []
        for method in dict.fromkeys(r.method for r in part):
            figures = [f"{mean_of(part, epochs, method, name):.3f}" for name in ("top", "upper", "middle")]
            expected = EXPECTED.get((task, epochs, method))
            rows.append([method, *figures, "" if expected is None else " / ".join(f"{v:.3f}" for v in expected)])
        seeds = ", ".join(str(seed) for seed in sorted({r.seed for r in part}))
        caption = (
            f"{task}, {epochs} epochs: scores of 128 proposals, mean of the seeds {seeds}. '{SWAPPED}' has the order of"
            f" the official sampling; '{ASCENT}' is a strong baseline here, unlike in the paper." + NOTES.get(task, "")
        )
        header = ["proposals", "largest", "80th percentile", "50th percentile", "another program"]
        found.append(Table(caption, header, rows))
    return found


def sizes(records: Sequence[Proposals]) -> list[tuple[str, int]]:
    """(task, epochs) of all experiments, in order."""
    return sorted({(r.task, r.epochs) for r in records})
