"""The records of trained networks and of kept memory, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..harness.records import of_kind

DIGITS, MNIST1D, MNIST, FASHION = "digits", "MNIST-1D", "MNIST", "Fashion-MNIST"
SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)

BP, CODE, NORMALIZED = "back-propagation", "counter-current", "counter-current, unit rows"
FROZEN, LAST, LINEAR = "counter-current, feedback frozen", "last layer alone", "linear classifier"
RULES = (BP, CODE, NORMALIZED, FROZEN, LAST, LINEAR)
IMAGE_RULES = (CODE, BP, LINEAR)  # of the larger data sets

# Test accuracy: on digits, of another program, seeds 0 to 2; on images, of the paper, five seeds.
EXPECTED = {
    (DIGITS, BP): (0.9756, 0.9644, 0.9622),
    (DIGITS, CODE): (0.9756, 0.9689, 0.9667),
    (DIGITS, NORMALIZED): (0.9622, 0.9578, 0.9600),
    (DIGITS, FROZEN): (0.9644, 0.8867, 0.9578),
    (DIGITS, LAST): (0.8911, 0.8800, 0.8956),
    (MNIST, BP): (0.9819,),
    (MNIST, CODE): (0.9813,),
    (FASHION, BP): (0.8958,),
    (FASHION, CODE): (0.8858,),
}

DEPTHS = (2, 4, 8, 16, 32)
PLAIN, AUTOGRAD, BLOCKWISE, CLOSED = "back-propagation", "autograd form", "blockwise form", "closed form"
FORMS = (PLAIN, AUTOGRAD, BLOCKWISE, CLOSED)


@dataclass
class Trained:
    """One network on the test set."""

    data: str
    rule: str
    seed: int
    accuracy: float  # of the chosen epoch
    curve: list[float]  # accuracy after each epoch
    cosines: list[float]  # between forward weights and transposed feedback weights, by layer
    cka: list[float]  # of the states of both networks, by depth


@dataclass
class Kept:
    """Bytes that a gradient keeps for its backward pass, at most at one time."""

    form: str
    depth: int  # layers
    size: int  # bytes


def of(records: Sequence[Trained | Kept], data: str, rule: str) -> list[Trained]:
    """The networks of one data set and rule, in order of the seeds."""
    found = [r for r in of_kind(records, Trained) if (r.data, r.rule) == (data, rule)]
    return sorted(found, key=lambda r: r.seed)


def mean(records: Sequence[Trained | Kept], data: str, rule: str) -> float:
    """Mean test accuracy. NaN if nothing was trained."""
    found = [r.accuracy for r in of(records, data, rule)]
    return fmean(found) if found else float("nan")


def kept(records: Sequence[Trained | Kept], form: str) -> list[Kept]:
    """The memory of one form, by depth."""
    return sorted((r for r in of_kind(records, Kept) if r.form == form), key=lambda r: r.depth)
