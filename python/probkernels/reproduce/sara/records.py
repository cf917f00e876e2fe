"""Recipes, what their runs leave, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

SEEDS = (0, 1)
DENSITY = 0.058
SHARES = (0.02, DENSITY, 0.1, 0.2, 0.4)  # of the weights, set to zero
QUICK_SHARES = (DENSITY, 0.2)
CHOICES = ("smallest", "random", "largest")


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning method with its settings."""

    trains: str  # a member of CHOICES, "all", "LoRA" or "SHiRA"
    lr: float = 1e-3
    progressive: bool = False
    rank_penalty: float = 0.0
    steps: int = 1000
    draw: int = 0  # of random weights


RECIPES = {
    "smallest (SaRA)": Recipe("smallest"),
    "smallest, progressive": Recipe("smallest", progressive=True),
    "smallest, lr 3e-3": Recipe("smallest", lr=3e-3),
    "random": Recipe("random"),
    "random, second draw": Recipe("random", draw=1),
    "largest": Recipe("largest"),
    "all weights": Recipe("all"),
    "all weights, lr 1e-4": Recipe("all", lr=1e-4),
    "LoRA": Recipe("LoRA"),
    "LoRA, lr 3e-4": Recipe("LoRA", lr=3e-4),
    "SHiRA (peft)": Recipe("SHiRA"),
    "300 steps, λ = 0": Recipe("smallest", steps=300),
    "300 steps, λ = 1e-3": Recipe("smallest", steps=300, rank_penalty=1e-3),
}

SARA, LARGEST, RANDOM = "smallest (SaRA)", "largest", ("random", "random, second draw")
QUICK = (SARA, *RANDOM, LARGEST)
SAMPLED = (SARA, "random", LARGEST, "all weights")

# What another program gave: loss on new data, on old data, and the share of trained weights still below the threshold.
# Means of seeds 0 and 1, but for the runs of 300 steps, whose seeds are not known.
EXPECTED: dict[str, tuple[float, float, float | None]] = {
    "smallest (SaRA)": (0.416, 0.249, 0.012),
    "smallest, progressive": (0.440, 0.249, 0.001),
    "smallest, lr 3e-3": (0.387, 0.276, 0.011),
    "random": (0.444, 0.267, None),
    "largest": (0.413, 0.405, None),
    "all weights": (0.371, 0.438, None),
    "all weights, lr 1e-4": (0.413, 0.280, None),
    "300 steps, λ = 0": (0.7544, 0.2214, None),
    "300 steps, λ = 1e-3": (0.7579, 0.2200, None),
}

EXPECTED_BEFORE = (6.97, 0.0617)
EXPECTED_ZEROED = {  # seed 0; untouched 0.0616
    ("smallest", DENSITY): 0.0617,
    ("smallest", 0.2): 0.0624,
    ("random", DENSITY): 0.1351,
    ("random", 0.2): 0.3271,
    ("largest", DENSITY): 0.9383,
    ("largest", 0.2): 0.9860,
}


@dataclass
class Pretrained:
    """A model that knows the old classes."""

    seed: int
    state: dict[str, Tensor]
    new: float  # loss
    old: float
    zeroed: dict[tuple[str, float], float]  # loss on old data by (choice, share)


@dataclass
class Tuned:
    """The losses of a fine-tuned model."""

    recipe: str
    seed: int
    trained: int  # numbers
    new: float
    old: float
    below: float | None  # share of the trained weights that are still below the threshold
    trace: list[tuple[int, float, float]]  # step, loss on new data, loss on old data
    points: list[list[float]]  # samples: x, y, class


def mean(tuned: Sequence[Tuned], which: str, *recipes: str) -> float:
    """Mean of one figure over the seeds of some recipes."""
    return fmean(getattr(run, which) for run in tuned if run.recipe in recipes)


COST_WIDTH = 2048  # 8.5 million weights: the arithmetic outweighs the calls
COST_STEPS = 12
MIB = 2**20


@dataclass
class Cost:
    """Memory and time of a fine-tuning method."""

    way: str
    trained: int  # numbers
    held: int  # bytes of all tensors after a step beyond the model's own: trained values, gradients, optimizer state
    peak: int | None  # bytes by which the process grew while training, activations included
    seconds: float  # of a step
    file: int  # bytes of what is saved


Record = Pretrained | Tuned | Cost
