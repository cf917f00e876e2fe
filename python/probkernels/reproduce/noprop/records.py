"""The records of trained classifiers and of memory, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..harness.records import of_kind

SEEDS = (0, 1, 2)
DIGITS = "digits"
DT, QUIET, CT, FM = "NoProp-DT", "NoProp-DT, no noise in inference", "NoProp-CT, 1000 steps", "NoProp-FM, 100 steps"
BP, LINEAR = "back-propagation", "linear"
WAYS = (DT, QUIET, BP, FM, CT, LINEAR)
ONE_BLOCK, CHAIN = "NoProp-DT, one block's step", "back-propagation through all blocks"
DEPTHS = (5, 10, 20, 40)

# Test accuracy on digits of another program: means over its inference runs, of seed 0 unless the text says otherwise.
EXPECTED = {DT: 0.9822, QUIET: 0.9878, BP: 0.9711, FM: 0.9780, CT: 0.9100}


@dataclass
class Trained:
    """One classifier on a test set."""

    data: str
    way: str
    seed: int
    epochs: int
    accuracies: list[float]  # of the inference runs


@dataclass
class Kept:
    """Bytes that autograd keeps for a backward pass."""

    way: str
    blocks: int
    bytes: int


def accuracy(records: Sequence[Any], data: str, way: str) -> float:
    """Mean over seeds and inference runs; NaN if the way was not run."""
    found = [a for r in of_kind(records, Trained) if (r.data, r.way) == (data, way) for a in r.accuracies]
    return fmean(found) if found else float("nan")


def kept(records: Sequence[Any], way: str) -> dict[int, int]:
    """Bytes by number of blocks."""
    return {r.blocks: r.bytes for r in of_kind(records, Kept) if r.way == way}
