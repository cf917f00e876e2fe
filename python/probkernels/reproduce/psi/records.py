"""The records of the exact predictor, of trained networks and of a scene, and the expected figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LN9 = math.log(9)
SMALL, FIXED, FREE = "small", "a", "b"  # worlds on which networks are trained

# The exact predictor: figures that another program printed, and closed forms.
CHAIN, ORDERS, PARALLEL = "NLL of the frame, one by one", "spread over three orders", "NLL of the frame, all at once"
POKED, BACKGROUND, ENTROPY = "NLL after a poke", "NLL after a flow token on background", "entropy of a flow token"
TWO, TWO_POKED = "NLL of the frame, two objects", "NLL of the frame, two objects, one poked"
PEAK, SECOND, BLIND = "KL at the destination", "largest KL elsewhere", "KL at a destination, nothing revealed"
DOT, IOU, MOVES, STILL = "dot product on the object", "IoU of segments", "p_motion on objects", "p_motion elsewhere"
NEAR, FAR = "depth of the object", "depth of the background"
EXPECTED = {
    CHAIN: LN9, ORDERS: 0.0, PARALLEL: 11.9434904, POKED: 0.0, BACKGROUND: LN9, ENTROPY: LN9,
    TWO: 2 * LN9, TWO_POKED: LN9, PEAK: 13.815, SECOND: 0.0, BLIND: 1.2909,
    DOT: 1.5, IOU: 1.0, MOVES: 8 / 9, STILL: 0.0, NEAR: 1.0, FAR: 2.0,
}  # fmt: skip
DIGITS = {PARALLEL: 5e-8, PEAK: 5e-4, BLIND: 5e-5}  # of figures that are printed with fewer digits; of others 1e-9


@dataclass
class Exact:
    """One figure of the exact predictor."""

    name: str
    value: float


@dataclass
class Trained:
    """A trained network on new scenes. Likelihoods are in nats for a whole frame."""

    world: str
    steps: int
    nll: float  # of the second frame, given the first
    poked: float  # given a flow token on the object besides
    flow: float  # of a flow token on the object, given the first frame
    iou: float
    moves: float  # p_motion on the object
    still: float  # p_motion on the background
    hit: float | None  # share of KL traces that end at the exact destination
    error: float | None  # mean distance from it in patches


@dataclass
class Scene:
    """What was extracted from one scene of the world of free bits; maps of 6 x 6 numbers."""

    source: str
    frame0: list[list[float]]
    frame1: list[list[float]]
    kl: list[list[float]]
    dot: list[list[float]]
    motion: list[list[float]]
    tracer: tuple[int, int]  # row, column
    target: tuple[int, int]


EXACT_SOURCE, TRAINED_SOURCE = "exact", "trained"

# Of another program, which learned FIXED without rotary attention, at a rate of 0.002, in 1500 steps: NLL, poked, flow,
# IoU, p_motion on and off, hits, error.
TRAINED = {
    FIXED: (2.87, 0.24, 2.20, 1.0, 0.915, 0.012, None, None),
    FREE: (2.53, 0.006, 2.199, 1.0, 0.882, 0.0, 0.95, 0.075),
}
STEPS = {SMALL: 240, FIXED: 1000, FREE: 3000}


def exact(records: Sequence[object]) -> dict[str, float]:
    """Figures of the exact predictor by name."""
    return {r.name: r.value for r in records if isinstance(r, Exact)}


def trained(records: Sequence[object]) -> list[Trained]:
    """Networks in the order of ``STEPS``."""
    return sorted((r for r in records if isinstance(r, Trained)), key=lambda r: list(STEPS).index(r.world))


def scenes(records: Sequence[object]) -> list[Scene]:
    """Scenes that are shown."""
    return [r for r in records if isinstance(r, Scene)]
