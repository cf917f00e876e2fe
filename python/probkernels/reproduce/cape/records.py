"""The records of trained networks and of released predictions, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SCENARIOS = ("linear", "skewed", "centered", "discrete", "sigmoid")
SEEDS = (0, 1, 2, 3, 4)
QUICK = (("linear", 0), ("linear", 1), ("centered", 0))

OVERFIT, EARLY = "outcomes only, all 100 epochs", "outcomes only, early stop"
CONTINUED, LAST = "60 more epochs on outcomes", "60 more epochs of CaPE, bins"
KERNEL, SELECTED = "60 more epochs of CaPE, kernel", "CaPE, bins, best on validation"
WAYS = (OVERFIT, EARLY, SELECTED, CONTINUED, LAST, KERNEL)

# MSE_p on the test set, mean of five seeds, of another program with this set-up and other random numbers.
EXPECTED = {
    scenario: dict(zip(WAYS, figures, strict=True))
    for scenario, figures in {
        "linear": (0.0971, 0.0248, 0.0248, 0.0383, 0.0335, 0.0371),
        "skewed": (0.0763, 0.0089, 0.0087, 0.0200, 0.0172, 0.0156),
        "centered": (0.0987, 0.0070, 0.0069, 0.0173, 0.0116, 0.0131),
        "discrete": (0.0921, 0.0248, 0.0244, 0.0372, 0.0290, 0.0319),
        "sigmoid": (0.0311, 0.0146, 0.0156, 0.0194, 0.0170, 0.0188),
    }.items()
}


@dataclass
class Judged:
    """One network on the test set."""

    scenario: str
    way: str
    seed: int
    mse_p: float  # squared distance from the true probabilities
    ece: float  # 15 bins of equal mass, not weighted
    brier: float


# Released predictions for faces, by their names in the file, and six measures of them by another program.
MODELS = ("infinite", "overfit", "early_stop", "cape_bin")
MEASURES = ("mse_p", "kl_p", "brier", "ks", "auroc", "nll")
FACES = {
    ("linear", "infinite"): (0.01224, 0.03049, 0.19384, 0.0270, 0.7086, 0.5658),
    ("linear", "overfit"): (0.10383, 0.63119, 0.29105, 0.1460, 0.6161, 1.2000),
    ("linear", "early_stop"): (0.03679, 0.08863, 0.21934, 0.1056, 0.6701, 0.6257),
    ("linear", "cape_bin"): (0.02413, 0.06252, 0.20675, 0.0294, 0.6692, 0.5992),
    ("discrete", "infinite"): (0.01509, 0.03604, 0.20396, 0.0188, 0.6874, 0.5950),
    ("discrete", "overfit"): (0.10390, 0.54614, 0.28784, 0.1394, 0.6150, 1.0873),
    ("discrete", "early_stop"): (0.02612, 0.06345, 0.21390, 0.0239, 0.6527, 0.6203),
    ("discrete", "cape_bin"): (0.02476, 0.05868, 0.21152, 0.0200, 0.6608, 0.6133),
}


@dataclass
class Released:
    """The authors' predictions for faces, whose true probabilities are known."""

    scenario: str
    model: str
    figures: dict[str, float]  # by name of the measure
    ece: float  # 15 bins of equal mass, not weighted
    identity: float  # Brier score, less MSE_p and the mean of p (1 - p): 0 but for the draw of the outcomes


def of(records: Sequence[Judged | Released], scenario: str, way: str) -> list[Judged]:
    """The networks of one scenario and way, in order of the seeds."""
    found = [r for r in records if isinstance(r, Judged) and (r.scenario, r.way) == (scenario, way)]
    return sorted(found, key=lambda r: r.seed)


def released(records: Sequence[Judged | Released]) -> list[Released]:
    """The released predictions that were measured."""
    return [r for r in records if isinstance(r, Released)]
