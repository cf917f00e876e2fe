"""Claims and tables of the PSI experiment."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.method import Claim, Table
from .records import DIGITS, EXPECTED, FIXED, FREE, SMALL, TRAINED, Trained, exact, trained

CLOSED_FORM = 1e-9  # distance that is allowed from a closed form
WORLDS = {SMALL: "4 x 4 patches", FIXED: "6 x 6 patches", FREE: "6 x 6 patches, free bits"}
# NLL, NLL after a poke at most; what a poke gains, IoU, p_motion on the object less that elsewhere, hits above.
BOUNDS = {
    SMALL: (3.5, 0.5, 2.0, 0.95, 0.7, None),
    FIXED: (3.2, 0.6, 2.0, 0.95, 0.8, None),
    FREE: (3.0, 0.2, None, None, None, 0.8),
}
FIGURES = (
    "NLL of the second frame",
    "the same after a poke on the object",
    "nats that the poke gains",
    "IoU of segments, 30 scenes",
    "p_motion on the object less elsewhere",
    "KL traces that end at the destination, 40 scenes",
)


def claims(records: Sequence[object]) -> list[Claim]:
    """The exact predictor's figures are those expected; trained networks know and show the same."""
    found = [
        Claim.at_most(
            f"exact: {name}, distance from {EXPECTED[name]:.9g}",
            abs(value - EXPECTED[name]),
            DIGITS.get(name, CLOSED_FORM),
            f"measured {value:.9g}",
        )
        for name, value in exact(records).items()
    ]
    for net in trained(records):
        for text, value, bound, sign in zip(FIGURES, _figures(net), BOUNDS[net.world], (1, 1, 0, 0, 0, 0), strict=True):
            if value is not None and bound is not None:
                claim = Claim.at_most if sign else Claim.above
                found.append(claim(f"{WORLDS[net.world]}: {text}", value, bound, f"{net.steps} steps"))
    return found


def _figures(net: Trained) -> tuple[float | None, ...]:
    return net.nll, net.poked, net.nll - net.poked, net.iou, net.moves - net.still, net.hit


def tables(records: Sequence[object]) -> list[Table]:
    """All figures of the exact predictor and of the networks."""
    rows = [[name, f"{EXPECTED[name]:.9g}", f"{value:.9g}"] for name, value in exact(records).items()]
    found = [Table("The exact predictor.", ["figure", "expected", "measured"], rows)]
    lines = []
    for net in trained(records):
        own = (net.nll, net.poked, net.flow, net.iou, net.moves, net.still, net.hit, net.error)
        lines.append([WORLDS[net.world], str(net.steps), "measured", *map(_shown, own)])
        if net.world in TRAINED:
            lines.append([WORLDS[net.world], str(net.steps), "expected", *map(_shown, TRAINED[net.world])])
    header = [
        "world",
        "steps",
        "figures",
        "NLL",
        "after a poke",
        "flow token",
        "IoU",
        "p_motion on",
        "off",
        "hits",
        "error",
    ]
    caption = (
        "Trained networks. The best that is possible: NLL and flow token ln 9 = 2.197, after a poke 0, p_motion 8/9."
    )
    return [*found, Table(caption, header, lines)]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
