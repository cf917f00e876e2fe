"""Claims and tables of the counter-current experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import (
    BP,
    CLOSED,
    CODE,
    DEPTHS,
    DIGITS,
    EXPECTED,
    FASHION,
    FORMS,
    FROZEN,
    LAST,
    MNIST,
    MNIST1D,
    RULES,
    Kept,
    Trained,
    kept,
    mean,
    of,
)  # fmt: skip

LEAST = {DIGITS: 0.955, MNIST: 0.976, FASHION: 0.87}  # of the images: half a point and 1.6 below the paper
WITHIN = 0.015  # of back-propagation


def claims(records: Sequence[Trained | Kept]) -> list[Claim]:
    """Local rules come near back-propagation, the feedback network's learning helps, and nothing is kept."""
    found = []
    for data, least in LEAST.items():
        if not of(records, data, CODE):
            continue
        accuracy, seeds = mean(records, data, CODE), _seeds(records, data)
        found.append(Claim.above(f"{data}: test accuracy of counter-current learning", accuracy, least, seeds))
        if of(records, data, BP):
            gap = mean(records, data, BP) - accuracy
            found.append(Claim.at_most(f"{data}: back-propagation less counter-current learning", gap, WITHIN))
    accuracy = mean(records, DIGITS, CODE)
    for rule, least in ((FROZEN, 0.01), (LAST, 0.05)):
        gain = accuracy - mean(records, DIGITS, rule)
        expected = _expected(DIGITS, CODE) - _expected(DIGITS, rule)
        note = f"another program: {expected:.4f}"
        found.append(Claim.above(f"{DIGITS}: counter-current learning less {rule}", gain, least, note))
    most = max((record.size for record in kept(records, CLOSED)), default=float("nan"))
    text = f"bytes kept for a backward pass, {DEPTHS[0]} to {DEPTHS[-1]} layers, closed form"
    return [*found, Claim.at_most(text, most, 0)]


def _seeds(records: Sequence[Trained | Kept], data: str) -> str:
    expected = EXPECTED[data, CODE]
    values = ", ".join(f"{r.accuracy:.4f}" for r in of(records, data, CODE))
    source = "another program" if data == DIGITS else "the paper"
    return f"by seed {values}; {source}: {', '.join(f'{value:.4f}' for value in expected)}"


def _expected(data: str, rule: str) -> float:
    return fmean(EXPECTED.get((data, rule), (float("nan"),)))


def tables(records: Sequence[Trained | Kept]) -> list[Table]:
    """Accuracies, how alike both networks are, and memory."""
    rows, alike = [], []
    for data in (DIGITS, MNIST1D, MNIST, FASHION):
        for rule in RULES:
            own = of(records, data, rule)
            if not own:
                continue
            values = [r.accuracy for r in own]
            expected = f"{_expected(data, rule):.4f}" if (data, rule) in EXPECTED else ""
            rows.append([data, rule, f"{fmean(values):.4f}", ", ".join(f"{v:.4f}" for v in values), expected])
            if own[0].cosines:
                of_weights, of_states = (
                    " ".join(f"{fmean(each):.2f}" for each in zip(*parts, strict=True))
                    for parts in ([r.cosines for r in own], [r.cka for r in own])
                )
                alike.append([data, rule, of_weights, of_states])
    memory = [
        [form, *(f"{r.size / 2**20:.2f}" for r in kept(records, form))] for form in FORMS if kept(records, form)
    ]  # fmt: skip
    header = ["form", *(f"{depth} layers" for depth in DEPTHS)]
    return [
        Table("Test accuracy.", ["data", "training", "mean", "by seed", "expected"], rows),
        Table(
            "Cosine between forward weights and transposed feedback weights by layer, and CKA of both networks' states"
            " by depth, from the input on; means over seeds.",
            ["data", "training", "cosines", "CKA"],
            alike,
        ),
        Table("MiB kept for the backward pass, at most at one time: width 128, 128 rows.", header, memory),
    ]
