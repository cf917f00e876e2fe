"""The records of judged models, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FEW, CONSTANTS, FUNCTIONS = "constants, 1 or 2 contexts", "constants, 1 to 5 contexts", "functions of an RBF kernel"
SETTINGS = (FEW, CONSTANTS, FUNCTIONS)
CNP, MPNP = "CNP", "MPNP"
WAYS = (CNP, MPNP)
SEEDS = (0, 1, 2)
RBF, MATERN, PERIODIC, HEAVY = "RBF", "Matern 5/2", "periodic", "RBF, Student noise"
TESTS = {FEW: ("n=1", "n=2"), CONSTANTS: ("n=1", "n=2", "n=5"), FUNCTIONS: (RBF, MATERN, PERIODIC, HEAVY)}

# Log densities a target, marginal and joint: exact ones, and those of another program's models with one seed.
EXACT = {"n=1": (-0.540, -0.331), "n=2": (-0.410, -0.303), "n=5": (-0.305, -0.269)}
EXPECTED = {
    (CONSTANTS, CNP): {"n=1": (-0.593, -0.593), "n=2": (-0.403, -0.403), "n=5": (-0.322, -0.322)},
    (CONSTANTS, MPNP): {"n=1": (-0.561, -0.357), "n=2": (-0.385, -0.291), "n=5": (-0.317, -0.288)},
    (FUNCTIONS, CNP): {RBF: (-0.670, -0.670)},
    (FUNCTIONS, MPNP): {RBF: (-0.602, -0.590)},
}


@dataclass
class Judged:
    """One trained model on the tests of its setting."""

    setting: str
    way: str
    seed: int
    steps: int
    found: dict[str, tuple[float, float]]  # marginal and joint log density a target, by test


def of(records: Sequence[Judged], setting: str, way: str) -> list[Judged]:
    """The models of one setting and way, in order of the seeds."""
    return sorted((r for r in records if (r.setting, r.way) == (setting, way)), key=lambda r: r.seed)
