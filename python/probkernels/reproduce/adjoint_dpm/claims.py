"""Claims and tables of the AdjointDPM experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ..harness.method import Claim, Table
from ..harness.records import of_kind
from .records import (
    ATTACKED,
    CONTINUOUS,
    EXACT,
    EXPECTED_ATTACK,
    EXPECTED_BEFORE,
    EXPECTED_ERRORS,
    EXPECTED_TUNING,
    LENGTHS,
    NAMES,
    ONE_STEP,
    Agreement,
    Attack,
    Bytes,
    Errors,
    Judge,
    Record,
    RoundTrip,
    Tuning,
)


def claims(records: Sequence[Record]) -> list[Claim]:
    """The claims of the experiment."""
    return [
        _gap_claim(records),
        *_error_claims(of_kind(records, Errors)),
        _agreement_claim(of_kind(records, Agreement)),
        *_byte_claims(of_kind(records, Bytes)),
        _round_trip_claim(of_kind(records, RoundTrip)),
        _tuning_claim(of_kind(records, Tuning)),
    ]


def tables(records: Sequence[Record]) -> list[Table]:
    """Tables of further figures."""
    return [
        _attack_table(of_kind(records, Attack), of_kind(records, Judge)[0].accuracy),
        _error_table(of_kind(records, Errors)),
        _agreement_table(of_kind(records, Agreement)),
        _byte_table(of_kind(records, Bytes)),
        _tuning_table(of_kind(records, Tuning)),
    ]


def success(records: Sequence[Record], steps: int, gradient: str) -> list[float]:
    """Final success by seed."""
    found = [a for a in of_kind(records, Attack) if (a.steps, a.gradient) == (steps, gradient)]
    return [a.success[-1] for a in sorted(found, key=lambda a: a.seed)]


def _percent(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)


def _gap_claim(records: Sequence[Record]) -> Claim:
    exact, continuous = (success(records, 10, way) for way in (EXACT, CONTINUOUS))
    gap = 100 * (fmean(exact) - fmean(continuous))
    expected = 100 * (EXPECTED_ATTACK[10, EXACT] - EXPECTED_ATTACK[10, CONTINUOUS])
    note = f"by seed, exact {_percent(exact)}, continuous {_percent(continuous)}; another program gave {expected:.1f}"
    text = "10 steps: success of the attack by the exact gradient − by the continuous adjoint, points"
    return Claim.above(text, gap, 50, note)


def _error_claims(found: Sequence[Errors]) -> list[Claim]:
    (at_10,) = (e for e in found if (e.solver, e.steps, e.way) == ("ddim", 10, "continuous adjoint"))
    text = "10 steps of DDIM: relative error of the continuous adjoint's gradient to x_T"
    first = Claim.above(text, at_10.errors[0], 0.5, "another program gave 1.03")
    text = "the cosine of that gradient and the exact one"
    second = Claim.at_most(text, at_10.cosine, 0, "below 0 it points the wrong way; another program gave -0.95")
    return [first, second]


def _agreement_claim(found: Sequence[Agreement]) -> Claim:
    worst = max(found, key=lambda a: a.gap)
    text = f"20 steps of {len(found)} solvers: largest relative gap of the exact gradient to automatic differentiation"
    return Claim.at_most(text, worst.gap, 1e-12, f"of {worst.solver}; x_T, condition and weights, in float64")


def growth(found: Sequence[Bytes], gradient: str) -> float:
    """Bytes that each further step adds, in units of a state."""
    (mine,) = (b for b in found if b.gradient == gradient)
    return (mine.saved[-1] - mine.saved[0]) / (LENGTHS[-1] - LENGTHS[0]) / mine.state


def _byte_claims(found: Sequence[Bytes]) -> list[Claim]:
    naive = growth(found, "autograd")
    text, note = "bytes that a step adds ÷ bytes of x: ", f"without it, by autograd, {naive:.1f}"
    exact, reversible = growth(found, EXACT), growth(found, "reversible")
    return [
        Claim(f"{text}exact", exact, "= 1", exact == 1, note),
        Claim(f"{text}reversible", reversible, "= 0", reversible == 0, note),
    ]


def _round_trip_claim(found: Sequence[RoundTrip]) -> Claim:
    total = sum(r.differing for r in found)
    steps = ", ".join(str(r.steps) for r in found)
    note = f"{ATTACKED} images in float32, {steps} steps"
    return Claim("pixels that differ after images were inverted and decoded", total, "= 0", total == 0, note)


def _tuning_claim(found: Sequence[Tuning]) -> Claim:
    losses = {t.gradient: t.losses for t in found}[EXACT]
    expected = EXPECTED_TUNING[EXACT] / EXPECTED_BEFORE
    note = f"{losses[0]:.4f} to {losses[-1]:.4f}; another program's ratio is {expected:.2f}"
    text = "loss after tuning the weights by the exact gradient ÷ before"
    return Claim.at_most(text, losses[-1] / losses[0], 0.55, note)


# --- tables ---


def _attack_table(found: Sequence[Attack], accuracy: float) -> Table:
    rows = []
    for steps, way in dict.fromkeys((a.steps, a.gradient) for a in found):
        shares, expected = success(found, steps, way), EXPECTED_ATTACK[steps, way]
        rows.append([str(steps), way, f"{100 * fmean(shares):.1f}", _percent(shares), f"{100 * expected:.1f}"])
    caption = (
        f"Success of the attack on x_T in per cent, {ATTACKED} images a seed. '{ONE_STEP}' differentiates the data that"
        f" the net predicts at x_T instead. The classifier's accuracy on its training images: {accuracy:.1%}."
    )
    return Table(
        caption, ["steps", "gradient", "success", "by seed", "expected"], sorted(rows, key=lambda r: int(r[0]))
    )


def _error_table(found: Sequence[Errors]) -> Table:
    rows = []
    for e in found:
        errors = " / ".join(f"{error:.3g}" for error in e.errors)
        expected = EXPECTED_ERRORS[e.solver, e.steps]
        rows.append([NAMES.get(e.solver, e.solver), str(e.steps), e.way, errors, f"{e.cosine:.3f}", expected])
    caption = (
        "Error of continuous adjoints, relative to the exact gradient of the same steps: to x_T / condition / weights,"
        " and the cosine of both gradients to x_T. torchdiffeq takes part where it is installed."
    )
    return Table(caption, ["method", "steps", "by", "errors", "cosine", "expected"], rows)


def _agreement_table(found: Sequence[Agreement]) -> Table:
    rows = [[a.solver, f"{a.gap:.1e}"] for a in found]
    caption = "The exact gradient's largest relative gap to automatic differentiation of all steps, in float64."
    return Table(caption, ["solver", "gap"], rows)


def _byte_table(found: Sequence[Bytes]) -> Table:
    rows = [[b.gradient, *(f"{size / 2**20:.2f}" for size in b.saved), f"{growth(found, b.gradient):g}"] for b in found]
    caption = f"MiB that autograd keeps to differentiate {ATTACKED} images by x_T, and what a step adds, in states."
    return Table(caption, ["gradient", *(f"{steps} steps" for steps in LENGTHS), "a step adds"], rows)


def _tuning_table(found: Sequence[Tuning]) -> Table:
    rows = [
        [t.gradient, f"{t.losses[0]:.4f}", f"{t.losses[-1]:.4f}", f"{EXPECTED_BEFORE} to {EXPECTED_TUNING[t.gradient]}"]
        for t in found
    ]
    caption = "Mean squared distance of 20-step samples from the mean zero, before and after tuning all weights."
    return Table(caption, ["gradient", "before", "after", "expected"], rows)
