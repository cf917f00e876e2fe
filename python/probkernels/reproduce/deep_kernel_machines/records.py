"""The records of trained machines, and the expected figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NNGP = math.inf
WIDTHS = (NNGP, 100.0, 10.0, 1.0, 0.1)
ORDERED = WIDTHS[:4]  # over which accuracy rises
SEEDS = (0, 1)

# Accuracy and NLL on the test digits, of another program with this set-up, other factors and other random numbers.
EXPECTED = {
    0: {NNGP: (0.921, 0.859), 100.0: (0.938, 0.555), 10.0: (0.973, 0.277), 1.0: (0.979, 0.155), 0.1: (0.982, 0.109)},
    1: {NNGP: (0.924, 0.859), 100.0: (0.939, 0.556), 10.0: (0.970, 0.279), 1.0: (0.980, 0.158), 0.1: (0.979, 0.111)},
}

EXACT = ("boston", "concrete", "energy", "wine", "yacht")
SPARSE = ("kin8nm", "power", "naval")
LEAST_SQUARES = {  # test RMSE of linear regression, mean of 20 splits
    "boston": 4.588, "concrete": 10.314, "energy": 3.056, "wine": 0.6544, "yacht": 8.970,
    "kin8nm": 0.2023, "power": 4.613, "naval": 0.0059,
}  # fmt: skip


@dataclass
class Classified:
    """One machine on the test digits."""

    nu: float
    seed: int
    accuracy: float
    nll: float


@dataclass
class Regressed:
    """One machine on one split of a table."""

    table: str
    split: int
    nu: float
    rmse: float
    nll: float


def classified(records: Sequence[Classified | Regressed], nu: float) -> list[Classified]:
    """Machines on digits of one relative width, in order of the seeds."""
    found = [r for r in records if isinstance(r, Classified) and r.nu == nu]
    return sorted(found, key=lambda r: r.seed)


def regressed(records: Sequence[Classified | Regressed], table: str, nu: float) -> list[Regressed]:
    """Machines on one table, in order of the splits."""
    found = [r for r in records if isinstance(r, Regressed) and (r.table, r.nu) == (table, nu)]
    return sorted(found, key=lambda r: r.split)
