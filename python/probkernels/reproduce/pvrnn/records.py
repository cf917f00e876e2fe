"""The records of trained networks and of predictions, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.records import of_kind

WEIGHTS = (1.0, 0.1, 0.01, 0.001, 0.0001)
LARGE, MIDDLE, SMALL = 1.0, 0.1, 0.0001
SEEDS = (0, 1, 2)
ARM, PATH = "arm", "path"
DATA = (ARM, PATH)
OURS, GRU, LAST, LINE = "PV-RNN, error regression", "GRU", "last value", "last difference"
WAYS = (OURS, GRU, LAST, LINE)

# Another program, one seed: rec, KL, regeneration, grammar, coin and divergence.
EXPECTED = {
    1.0: (3.96, 0.49, 0.904, 1.0, 0.0, 0.034),
    0.1: (0.036, 8.9, 0.996, 1.0, 0.305, 0.140),
    0.01: (0.001, 14.7, 1.0, 0.895, 0.338, 0.140),
    0.001: (0.002, 14.0, 1.0, 0.486, 0.379, 0.167),
    0.0001: (0.001, 21.8, 1.0, 0.467, 0.409, 0.209),
}
EXPECTED_ONLINE = (1.0, 0.954, 0.669)


@dataclass
class Trained:
    """One trained network: its loss, and what it generates."""

    w: float
    seed: int
    rec: float
    kl: float
    regenerated: float  # share of training symbols right under the posterior
    grammar: float  # share of cycles with both fixed symbols right
    coin: float  # rate of 1 at the random symbol
    varied: float  # share of symbols that differ between runs from one start
    shown: list[list[int]]  # the last symbols of some runs


@dataclass
class Online:
    """Error regression on unseen symbols: accuracy one step ahead."""

    w: float
    seed: int
    fixed: float  # of the two fixed symbols, once the window is full
    early: float  # of the same, before
    coin: float


@dataclass
class Predicted:
    """Unseen movements of ``--data``: root mean square errors, by the steps ahead."""

    data: str
    way: str
    seed: int
    rmse: dict[int, float]


Record = Trained | Online | Predicted


def of_w(records: Sequence[Record], w: float) -> list[Trained]:
    """The networks of one w, in order of the seeds."""
    return sorted((r for r in of_kind(records, Trained) if r.w == w), key=lambda r: r.seed)


def predicted(records: Sequence[Record], data: str, way: str) -> list[Predicted]:
    """The predictions of one way."""
    return [r for r in of_kind(records, Predicted) if (r.data, r.way) == (data, way)]
