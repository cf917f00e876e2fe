"""The records of a network on digits and of sequences of tokens, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
NOISE, SHARES = 0.3, (0.0, 0.15, 0.3, 0.45)  # of labels that are random
SCALES = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)
LENGTH, TOKENS, RIGHT = 6, 20, 0.85
TOKEN_SCALES = (1.0, 1 / 0.7, 2.0, 1 / 0.3)

# Of another program with this set-up and other random numbers, at 30 % random labels: mean and standard deviation of
# three seeds.
EXPECTED = {1.0: (0.633, 0.037), 2.0: (0.848, 0.018), 3.0: (0.895, 0.012), 4.0: (0.909, 0.010)}
EXPECTED_BEST, EXPECTED_NLL_B = (0.922, 0.011), (0.83, 0.05)
# Exact: probability of the right token, and of six right ones.
EXACT = dict(
    zip(TOKEN_SCALES, ((0.85, 0.3771495), (0.9767949, 0.8686009), (0.9983636, 0.9902219), (0.9999968, 0.9999808)),
        strict=True)
)  # fmt: skip


@dataclass
class Digits:
    """One network on the test set, judged by clean labels."""

    share: float  # of training labels that are random
    seed: int
    drawn: dict[float, float]  # scale b -> accuracy of a drawn class
    best: float  # accuracy of the most probable class
    changed: int  # samples whose most probable class changes with b
    nll_b: float  # the b of the largest likelihood of noisy test labels
    fitted_b: float  # the b of the largest expected gain, on half of the test set
    held_out: tuple[float, float]  # accuracy of a drawn class at b = 1 and at the fitted b, on the other half
    abstaining: tuple[float, float]  # gain of the rule that may abstain at a cost of 0.2, likewise


@dataclass
class Sequences:
    """Sequences of independent tokens at one scale."""

    b: float
    token: float  # probability of a right token
    sequence: float  # of a drawn sequence that is right altogether
    best: float  # 1 if the most probable sequence is right


def of_digits(records: Sequence[Any], share: float = NOISE) -> list[Digits]:
    """The networks of one share of random labels, in order of the seeds."""
    found = [record for record in records if isinstance(record, Digits) and record.share == share]
    return sorted(found, key=lambda record: record.seed)


def of_sequences(records: Sequence[Any]) -> list[Sequences]:
    """The records of sequences, in order of the scale."""
    return sorted((record for record in records if isinstance(record, Sequences)), key=lambda record: record.b)


def mean_drawn(records: Sequence[Any], b: float, share: float = NOISE) -> float:
    """Accuracy of a drawn class, mean over seeds."""
    return fmean(record.drawn[b] for record in of_digits(records, share))
