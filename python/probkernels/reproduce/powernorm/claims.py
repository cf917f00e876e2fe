"""Claims and tables of the PowerNorm experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from ..._core import backend
from ...ops.power_norm import FWD
from ..harness.method import Claim, Table
from .records import EXPECTED, SEEDS, Run, validations


def claims(runs: Sequence[Run]) -> list[Claim]:
    """PowerNorm is better than BatchNorm, and not worse than LayerNorm."""
    found = [_claim(Claim.above, runs, "BatchNorm", "PowerNorm", batch, 0.015) for batch in _batches(runs)]
    found.insert(1, _claim(Claim.at_most, runs, "PowerNorm", "LayerNorm", 2, 0.005))
    return found


def _claim(
    kind: Callable[[str, float, float, str], Claim], runs: Sequence[Run], one: str, other: str, batch: int, bound: float
) -> Claim:
    """A claim about the validation loss of ``one`` minus that of ``other``."""
    pairs = zip(validations(runs, one, batch), validations(runs, other, batch), strict=True)
    gaps = [a - b for a, b in pairs]
    text = f"{one} − {other}: validation loss at batch size {batch}, nats/char, mean of {len(gaps)} seeds"
    expected = EXPECTED[one, batch] - EXPECTED[other, batch]
    note = f"by seed {', '.join(f'{gap:+.4f}' for gap in gaps)}; the official code gave {expected:+.3f}"
    return kind(text, fmean(gaps), bound, note)


def tables(runs: Sequence[Run]) -> list[Table]:
    """The table of validation losses."""
    ran = backend.choose(FWD, "cpu", torch.float32).name
    caption = f"Validation loss in nats/char, lower is better. PowerNorm's kernels: backend '{ran}'."
    rows = []
    for batch in _batches(runs):
        for norm in dict.fromkeys(run.norm for run in runs):
            losses = validations(runs, norm, batch)
            expected = EXPECTED.get((norm, batch))
            figures = [f"{loss:.4f}" for loss in (*losses, fmean(losses))]
            rows.append([norm, str(batch), *figures, "" if expected is None else f"{expected:.3f}"])
    return [Table(caption, ["norm", "batch", *(f"seed {seed}" for seed in SEEDS), "mean", "expected"], rows)]


def _batches(runs: Sequence[Run]) -> list[int]:
    return sorted({run.batch for run in runs})
