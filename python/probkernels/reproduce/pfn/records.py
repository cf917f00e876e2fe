"""The records of prior-fitted networks, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..harness.records import of_kind

SMALL, SHEET = "small GP", "GP"  # of quick and of full runs
BARS, GAUSSIAN = "bars", "Gaussian"
SIZES = {SMALL: (0, 1, 2, 5, 9), SHEET: (0, 1, 2, 5, 10, 20, 29)}  # contexts that are tested
BUDGETS = {SMALL: (100, 600), SHEET: (500, 3738)}  # steps, few and many
POINT = {SMALL: 5, SHEET: 10}  # contexts of the claim
COIN_STEPS, MODE_STEPS, TABLE_STEPS = 1300, 300, 2000
PFN_NAME = "PFN"

# Of another program with this set-up and other random numbers.
EXPECTED_EXACT = dict(zip(SIZES[SHEET], (1.420, 1.084, 0.765, 0.089, -0.370, -0.626, -0.675), strict=True))
EXPECTED_GAPS = {
    (BARS, 500): dict(zip(SIZES[SHEET], (0.023, 0.093, 0.169, 0.279, 0.265, 0.257, 0.250), strict=True)),
    (BARS, 3738): dict(zip(SIZES[SHEET], (0.029, 0.036, 0.071, 0.085, 0.077, 0.066, 0.066), strict=True)),
    (GAUSSIAN, 3738): dict(zip(SIZES[SHEET], (0.000, 0.010, 0.025, 0.057, 0.028, 0.019, 0.019), strict=True)),
}
EXPECTED_COINS = (0.022, 0.0033)  # largest and mean error, of 2500 steps
ENTROPY, BEST_GAUSSIAN = -0.1905, 2.1133  # of half N(-2, 0.1²) and half N(2, 0.1²)
# KL divergence of the best bars from N(mean, std²): (bars, mean, std) -> nats
EXPECTED_FLOORS = {
    (10, 0.0, 1.0): 0.2909, (100, 0.0, 1.0): 0.02695, (1000, 0.0, 1.0): 0.00205,
    (100, 0.0, 0.1): 0.0027, (100, 1.0, 0.1): 0.0077, (100, 2.0, 0.1): 0.1746,
    (1000, 2.0, 0.1): 0.0018, (100, 0.0, 0.01): 0.262, (1000, 0.0, 0.01): 0.0026,
}  # fmt: skip
# Mean rank of ROC AUC, and ECE, of Table 1 in the paper: other tables, 30 points, tuned models.
PAPER_TABLES = {
    PFN_NAME: (2.786, 0.025), "logistic regression": (4.690, 0.157), "Gaussian process": (5.286, 0.095),
    "gradient boosting": (3.357, 0.066), "nearest neighbors": (6.214, 0.093),
}  # fmt: skip


@dataclass
class Coins:
    """A network for coins: errors of its probabilities over all n < 20 and all numbers of ones."""

    steps: int
    seed: int
    largest: float
    mean: float
    curve: list[list[float]] = field(default_factory=list)  # of n = 19: exact, predicted


@dataclass
class Fitted:
    """A network for one Gaussian process."""

    setting: str
    head: str
    steps: int
    seed: int
    exact: dict[int, float]  # contexts -> NLL of the exact posterior predictive
    gap: dict[int, float]  # contexts -> NLL of the network above it
    order: float  # largest change of a predicted mean in float64 when contexts change places


@dataclass
class Modes:
    """A network for targets with two modes."""

    head: str
    steps: int
    seed: int
    nll: float


@dataclass
class Floors:
    """KL divergences of the best bars from normal distributions: [bars, mean, std, nats]."""

    values: list[list[float]]

    def worst(self) -> float:
        """The largest relative difference from the expected figures."""
        found = {(round(k), mean, std): nats for k, mean, std, nats in self.values}
        return max(abs(found[key] / nats - 1) for key, nats in EXPECTED_FLOORS.items())


@dataclass
class Tabular:
    """A classifier on one table: means over splits of 30 training points."""

    table: str
    model: str
    auc: float
    ece: float
    steps: int  # of the network


def fitted_of(records: Sequence[Any], setting: str, head: str, steps: int | None = None) -> list[Fitted]:
    """The networks of a Gaussian process, fewest steps first."""
    own = (r for r in of_kind(records, Fitted) if (r.setting, r.head) == (setting, head))
    return sorted((r for r in own if steps in (None, r.steps)), key=lambda r: (r.steps, r.seed))


def ranks(records: Sequence[Any]) -> dict[str, tuple[float, float, float]]:
    """Of every classifier: mean rank of its AUC over the tables (1 is best), mean AUC, mean ECE."""
    rows = of_kind(records, Tabular)
    names = list(dict.fromkeys(r.model for r in rows))
    found = {}
    for name in names:
        own = [r for r in rows if r.model == name]
        places = [0.5 + sum((o.auc > r.auc) + 0.5 * (o.auc == r.auc) for o in rows if o.table == r.table) for r in own]
        count = len(own)
        found[name] = (sum(places) / count, sum(r.auc for r in own) / count, sum(r.ece for r in own) / count)
    return found
