"""The record of a training run, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

STEPS = 1200
SEEDS = (0, 1, 2)
TRACE_EVERY = 10  # steps between two looks at PowerNorm's state

# Validation loss (nats/char), mean of three seeds, of another program that trained this set-up with the authors' own
# module. Its initial embeddings are not known, so levels may differ by some hundredths; see _char_lm.EMBEDDING_STD.
EXPECTED = {
    ("LayerNorm", 2): 2.589,
    ("BatchNorm", 2): 2.614,
    ("PN-V", 2): 2.587,
    ("PN (official mode)", 2): 2.576,
    ("PowerNorm", 2): 2.576,
    ("LayerNorm", 8): 2.037,
    ("BatchNorm", 8): 2.102,
    ("RMSNorm", 8): 2.031,
    ("PN-V", 8): 2.032,
    ("PN (official mode)", 8): 2.031,
    ("PowerNorm", 8): 2.031,
}


@dataclass
class Trace:
    """PowerNorm's state over time in one layer, each entry (C)."""

    steps: list[int] = field(default_factory=list)
    batch: list[list[float]] = field(default_factory=list)  # mean square of this batch
    psi2: list[list[float]] = field(default_factory=list)  # running mean square
    nu: list[list[float]] = field(default_factory=list)


@dataclass
class Run:
    """One trained model."""

    norm: str
    batch: int
    seed: int
    losses: list[float]  # nats/char of each training step
    validation: float  # nats/char
    traces: list[Trace]  # one a PowerNorm, in order of depth


def validations(runs: Sequence[Run], norm: str, batch: int) -> list[float]:
    """Validation losses in order of the seeds."""
    chosen = [run for run in runs if run.norm == norm and run.batch == batch]
    return [run.validation for run in sorted(chosen, key=lambda run: run.seed)]
