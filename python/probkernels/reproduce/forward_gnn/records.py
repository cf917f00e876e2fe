"""The records of trained networks and of memory, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

BLOCKS, CORA_ML, CORA = "block model", "CoraML", "Cora"
SPLITS = {BLOCKS: (0, 1, 2, 3, 4), CORA_ML: (0, 1, 2, 3, 4), CORA: (0,)}
QUICK_SPLITS = (0, 1)
DEPTHS, MEMORY_DEPTHS = (1, 2, 3, 4), (1, 2, 4, 8)

SF, BP, LINEAR = "single-forward", "back-propagation", "linear, no graph"

# Accuracy in percent by depth, as reported for the paper's code on five splits of CoraML; GCN.
EXPECTED = {(CORA_ML, SF): (87.75, 87.95, 88.15, 88.48), (CORA_ML, BP): (31.72, 86.84, 88.65, 86.61)}


@dataclass
class Trained:
    """One network on the test nodes of one split."""

    data: str
    split: int
    way: str
    layers: int
    accuracy: float  # percent


@dataclass
class Memory:
    """The most bytes that were kept for a backward pass at any time of a training step."""

    way: str
    layers: int
    bytes: int


def mean(records: Sequence[Trained | Memory], data: str, way: str, layers: int) -> float:
    """Mean accuracy over splits."""
    return fmean(accuracies(records, data, way, layers))


def accuracies(records: Sequence[Trained | Memory], data: str, way: str, layers: int) -> list[float]:
    """The accuracy of every split, in their order."""
    key = (data, way, layers)
    found = [r for r in records if isinstance(r, Trained) and (r.data, r.way, r.layers) == key]
    return [record.accuracy for record in sorted(found, key=lambda r: r.split)]


def kept(records: Sequence[Trained | Memory], way: str) -> dict[int, int]:
    """Bytes by depth."""
    return {r.layers: r.bytes for r in records if isinstance(r, Memory) and r.way == way}
