"""Claims and tables of the SaRA experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .model import BATCH
from .records import (
    COST_STEPS,
    COST_WIDTH,
    EXPECTED,
    EXPECTED_BEFORE,
    EXPECTED_ZEROED,
    LARGEST,
    MIB,
    RANDOM,
    RECIPES,
    SARA,
    Cost,
    Pretrained,
    Record,
    Tuned,
    mean,
)


def claims(records: Sequence[Record]) -> list[Claim]:
    """The smallest weights fit the new class, preserve the old classes, and hardly matter before fine-tuning."""
    return _tuning_claims(of_kind(records, Tuned)) + _zeroing_claims(of_kind(records, Pretrained))


def tables(records: Sequence[Record]) -> list[Table]:
    """Losses after fine-tuning, losses with some weights set to zero, and measured costs."""
    bases = of_kind(records, Pretrained)
    found = [_tuning_table(bases, of_kind(records, Tuned)), _zeroing_table(bases)]
    costs = of_kind(records, Cost)
    return [*found, _cost_table(costs)] if costs else found


def _tuning_claims(tuned: Sequence[Tuned]) -> list[Claim]:
    return [
        _ratio(Claim.above, tuned, "old", RANDOM, (SARA,), 1.0),
        _ratio(Claim.at_most, tuned, "old", (SARA,), (LARGEST,), 0.8),
        _ratio(Claim.above, tuned, "new", RANDOM, (SARA,), 1.0),
    ]


def _ratio(
    kind: Callable[[str, float, float, str], Claim],
    tuned: Sequence[Tuned],
    which: str,
    one: tuple[str, ...],
    other: tuple[str, ...],
    bound: float,
) -> Claim:
    """A claim about the ratio of two recipes' mean losses."""
    found = [mean(tuned, which, *names) for names in (one, other)]
    expected = [EXPECTED[names[0]][which == "old"] for names in (one, other)]
    text = f"{one[0]} ÷ {other[0]}: loss on {which} data after fine-tuning"
    note = f"{found[0]:.4f} ÷ {found[1]:.4f}; expected {expected[0]:.3f} ÷ {expected[1]:.3f}"
    return kind(text, found[0] / found[1], bound, note)


def _zeroing_claims(bases: Sequence[Pretrained]) -> list[Claim]:
    before = fmean(base.old for base in bases)
    smallest, random = (fmean(base.zeroed[choice, 0.2] for base in bases) for choice in ("smallest", "random"))
    note = "{:.4f} from {:.4f}; expected {:.4f} from 0.0616"
    return [
        Claim.at_most(
            "the smallest 20 % of the weights set to zero: relative change of the loss on old data",
            abs(smallest / before - 1),
            0.05,
            note.format(smallest, before, EXPECTED_ZEROED["smallest", 0.2]),
        ),
        Claim.above(
            "random 20 % set to zero: loss on old data ÷ that of the whole model",
            random / before,
            3.0,
            note.format(random, before, EXPECTED_ZEROED["random", 0.2]),
        ),
    ]


def _tuning_table(bases: Sequence[Pretrained], tuned: Sequence[Tuned]) -> Table:
    seeds = ", ".join(str(base.seed) for base in bases)
    caption = (
        f"ε-prediction loss, lower is better, mean of seeds {seeds}; expected: mean of seeds 0, 1. Below θ: share of"
        " the trained weights that are still smaller than the threshold at the end."
    )
    header = ["what is trained", "numbers", "new data", "expected", "old data", "expected", "below θ", "expected"]
    new, old = fmean(base.new for base in bases), fmean(base.old for base in bases)
    rows = [["before", "", f"{new:.2f}", f"{EXPECTED_BEFORE[0]}", f"{old:.4f}", f"{EXPECTED_BEFORE[1]}", "", ""]]
    rows += [_tuning_row(tuned, name) for name in dict.fromkeys(run.recipe for run in tuned)]
    return Table(caption, header, rows)


def _tuning_row(tuned: Sequence[Tuned], name: str) -> list[str]:
    runs = [run for run in tuned if run.recipe == name]
    new, old, below = EXPECTED.get(name, (None, None, None))
    digits = 4 if RECIPES[name].steps == 300 else 3
    still = [run.below for run in runs if run.below is not None]
    return [
        name,
        f"{runs[0].trained:,}",
        f"{mean(runs, 'new', name):.{digits}f}",
        "" if new is None else f"{new:.{digits}f}",
        f"{mean(runs, 'old', name):.{digits}f}",
        "" if old is None else f"{old:.{digits}f}",
        f"{fmean(still):.1%}" if still else "",
        "" if below is None else f"{below:.1%}",
    ]


def _zeroing_table(bases: Sequence[Pretrained]) -> Table:
    base = bases[0]
    rows = [
        [choice, f"{share:.1%}", f"{loss:.4f}", f"{EXPECTED_ZEROED[choice, share]:.4f}"]
        for (choice, share), loss in base.zeroed.items()
        if (choice, share) in EXPECTED_ZEROED
    ]
    caption = f"Loss on old data after setting weights to zero, seed {base.seed}. Untouched: {base.old:.4f} (0.0616)."
    return Table(caption, ["weights set to zero", "share", "loss", "expected"], rows)


def _cost_table(costs: Sequence[Cost]) -> Table:
    """Costs beside those of training all weights."""
    full = costs[0]
    rows = [
        [
            cost.way,
            f"{cost.trained:,}",
            f"{cost.held / MIB:.1f}",
            "" if cost.peak is None else f"{cost.peak / MIB:.0f}",
            f"{1e3 * cost.seconds:.0f}",
            f"{full.seconds / cost.seconds:.2f}",
            f"{cost.file / MIB:.2f}",
        ]
        for cost in costs
    ]
    caption = (
        f"The same model {COST_WIDTH} wide, batch {BATCH}, float32, one thread, median of {COST_STEPS} steps. Held: all"
        " tensors beyond the model after a step (values, gradients, optimizer state, selection). Grown: the most by"
        " which the process grew, activations included. Full AdamW is torch's fused one."
    )
    header = ["way", "numbers", "held, MiB", "grown, MiB", "ms a step", "speed-up", "saved, MiB"]
    return Table(caption, header, rows)
