"""Claims and tables of the stochastic-neuron experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from .records import DIGITS, EXPECTED, LINEAR, MNIST, NR, PAPER, PARITY, RELU, SLOPE, ST, STS, WAYS, Trained, of

LEAST = {(DIGITS, NR): 0.93, (DIGITS, STS): 0.93, (DIGITS, ST): 0.93, (PARITY, NR): 0.95, (PARITY, SLOPE): 0.95}


def _mean(records: Sequence[Trained], task: str, unit: str) -> tuple[float, str]:
    """Mean accuracy over seeds, and a note."""
    found = [r.accuracy for r in of(records, task, unit)]
    expected = " and ".join(f"{value:.3f}" for value in EXPECTED[task, unit])
    return fmean(found), f"by seed {', '.join(f'{value:.3f}' for value in found)}; another program: {expected}"


def claims(records: Sequence[Trained]) -> list[Claim]:
    """Sparse gates train, and cost little accuracy."""
    found = []
    for (task, unit), least in LEAST.items():
        accuracy, note = _mean(records, task, unit)
        found.append(Claim.above(f"{task}: accuracy, {unit}", accuracy, least, note))
        if task == DIGITS:
            active = max(r.active for r in of(records, task, unit))
            found.append(Claim.at_most(f"{task}: share of gates that are on, {unit}", active, 0.15))
    lost = _mean(records, DIGITS, RELU)[0] - _mean(records, DIGITS, NR)[0]
    found.append(Claim.at_most(f"{DIGITS}: accuracy lost against gates without noise, {NR}", lost, 0.02))
    for unit in (NR, SLOPE):
        gain = _mean(records, PARITY, unit)[0] - _mean(records, PARITY, LINEAR)[0]
        found.append(Claim.above(f"{PARITY}: accuracy above {LINEAR}, {unit}", gain, 0))
    return found


def tables(records: Sequence[Trained]) -> list[Table]:
    """All networks; MNIST in a table of its own."""
    rows = []
    for task in (DIGITS, PARITY):
        for unit in WAYS:
            own = of(records, task, unit)
            if own:
                expected = ", ".join(f"{value:.3f}" for value in EXPECTED.get((task, unit), ())) or "-"
                accuracies = ", ".join(f"{r.accuracy:.3f}" for r in own)
                rows.append([task, unit, accuracies, expected, f"{fmean(r.active for r in own):.3f}"])
    header = ["task", "unit", "accuracy by seed", "expected", "gates on"]
    found = [Table("Accuracy on 450 held-out digits, and the share of gates that are on for them.", header, rows)]
    large = [
        [r.unit, f"{r.train_nll:.4f}", f"{1 - r.accuracy:.2%}", f"{PAPER[r.unit]:.2%}", f"{r.active:.3f}"]
        for r in records
        if r.task == MNIST
    ]
    if large:
        header = ["unit", "training loss in the last epoch", "error", "error in the paper", "gates on"]
        found.append(Table("MNIST, 2,000 experts, 10,000 held-out training images.", header, large))
    return found
