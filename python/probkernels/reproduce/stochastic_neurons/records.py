"""The records of trained networks, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DIGITS, PARITY, MNIST = "digits, 10 classes", "digits, parity", "MNIST"
NR, RELU, STS = "noisy rectifier", "rectifier without noise", "stochastic times smooth"
ST, SLOPE, SBN = "straight-through", "straight-through, sigmoid slope", "REINFORCE, optimal baseline"
LINEAR = "logistic regression"
UNITS = (NR, RELU, STS, ST, SLOPE, SBN)
WAYS = (*UNITS, LINEAR)
SEEDS = (0, 1)

# Test accuracy for two seeds, of another program with this set-up and other random numbers.
EXPECTED: dict[tuple[str, str], tuple[float, ...]] = {
    (DIGITS, NR): (0.967, 0.971), (DIGITS, RELU): (0.969, 0.962), (DIGITS, STS): (0.964, 0.967),
    (DIGITS, ST): (0.942, 0.958), (DIGITS, SBN): (0.907, 0.909),
    (PARITY, NR): (0.984, 0.976), (PARITY, RELU): (0.984, 0.982), (PARITY, STS): (0.947, 0.944),
    (PARITY, ST): (0.882, 0.984), (PARITY, SLOPE): (0.971, 0.989), (PARITY, SBN): (0.958, 0.960),
    (PARITY, LINEAR): (0.9178,),
}  # fmt: skip

# The paper's validation errors on MNIST, after a number of epochs that it does not give.
PAPER = {NR: 0.0152, RELU: 0.0166, STS: 0.0186, ST: 0.0142, SBN: 0.0178}


@dataclass
class Trained:
    """One network on held-out images."""

    task: str
    unit: str
    seed: int
    accuracy: float
    active: float  # share of gates that are on for held-out images; 1 for a network without gates
    train_nll: float
    curve: list[float]  # accuracy in equal steps of the training


def of(records: Sequence[Trained], task: str, unit: str) -> list[Trained]:
    """The networks of one task and unit, in order of the seeds."""
    return sorted((r for r in records if (r.task, r.unit) == (task, unit)), key=lambda r: r.seed)
