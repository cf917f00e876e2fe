"""The records of the jobs, and the expected figures."""

from __future__ import annotations

from dataclasses import dataclass, field

EXACT, CONTINUOUS, ONE_STEP = "exact", "continuous", "one step"
SEEDS = {10: (0, 1, 2, 3, 4), 20: (0, 1, 2, 3, 4), 50: (0, 1, 2)}

QUICK_SEEDS: dict[int, tuple[int, ...]] = {10: (0, 1), 20: (0,)}
ATTACKS, STEP_LENGTH, ATTACKED = 15, 0.5, 64  # steps of the attack, their length, images
TUNINGS, RATE = 15, 1e-3
METHODS = (("ddim", 10), ("ddim", 20), ("ddim", 50), ("midpoint", 20), ("rk4", 20))
QUICK_METHODS = (("ddim", 10), ("ddim", 20), ("midpoint", 20))
SOLVERS = ("ddim", "dpmpp_2m", "ab3", "unipc", "heun", "alf", "obelm")  # held against automatic differentiation
LENGTHS = (10, 20, 50, 100)  # steps at which bytes are counted
NAMES = {"ddim": "Euler (DDIM)"}

# Another program's figures: success of the attack by steps and gradient; relative error of the continuous adjoint to
# x_T, condition and weights; loss before tuning and after.
EXPECTED_ATTACK = {(10, EXACT): 0.966, (10, CONTINUOUS): 0.0, (20, EXACT): 0.984, (20, CONTINUOUS): 0.981,
                   (50, EXACT): 0.994, (50, CONTINUOUS): 0.984, (20, ONE_STEP): 0.03}  # fmt: skip

EXPECTED_ERRORS = {("ddim", 10): "1.03 / 0.34 / 0.46", ("ddim", 20): "0.92 / 0.16 / 0.21",
                   ("ddim", 50): "0.49 / 0.06 / 0.08", ("midpoint", 20): "0.53 / 0.006 / 0.037",
                   ("rk4", 20): "1e-4"}  # fmt: skip

EXPECTED_TUNING = {EXACT: 0.1941, CONTINUOUS: 0.1965}
EXPECTED_BEFORE = 0.3575


@dataclass
class Attack:
    """Images whose noise was moved towards another digit."""

    steps: int
    gradient: str
    seed: int
    success: list[float]  # share taken for the target before each step of the attack, and after the last
    before: list[list[float]] = field(default_factory=list)  # some of the samples, 64 pixels each
    after: list[list[float]] = field(default_factory=list)


@dataclass
class Errors:
    """|gradient - exact| / |exact| to x_T, the condition and the weights, and the cosine of both gradients to x_T."""

    solver: str
    steps: int
    way: str  # "continuous adjoint" or "torchdiffeq"
    errors: tuple[float, float, float]
    cosine: float


@dataclass
class Agreement:
    """The exact gradient's largest relative gap to automatic differentiation over all inputs, in float64."""

    solver: str
    gap: float


@dataclass
class Tuning:
    """Mean squared distance of samples from the goal, before each step of tuning and after the last."""

    gradient: str
    losses: list[float]


@dataclass
class Bytes:
    """Bytes that autograd keeps for one run, for each of LENGTHS."""

    gradient: str
    saved: list[int]
    state: int  # bytes of one state


@dataclass
class RoundTrip:
    """Pixels that differ after images were inverted and decoded."""

    steps: int
    differing: int


@dataclass
class Judge:
    """The classifier that judges the samples, by its accuracy on its training images."""

    accuracy: float


Record = Judge | Attack | Errors | Agreement | Tuning | Bytes | RoundTrip
