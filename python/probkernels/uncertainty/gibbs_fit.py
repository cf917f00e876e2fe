"""The scale of the Gibbs family that is best for a stated gain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._options import check_labels, check_shape, check_utility, chosen, expectation
from .conversions import check_scale, log_gibbs

CRITERIA = ("expected_gain", "nll")
LEAST_B, GRID, BISECTIONS = 1e-3, 64, 60
ROUNDING = 1e-12  # of values, relative, which must not choose among equal ones
Of = Callable[[float], float]


def expected_gain(utility: Tensor, gain: Tensor, b: float | Tensor = 1.0, *, mask: Tensor | None = None) -> Tensor:
    """Mean gain of an option drawn from :func:`gibbs`. Its derivative by b is the covariance of gain and utility.

    Args:
        utility: (..., M) utilities. Differentiable.
        gain: (..., M) gain of each option, such as 1 for the right one and 0 for others. Differentiable.
        b: scale >= 0, a number or a scalar tensor, then differentiable.
        mask: (..., M) bool, True for options that are allowed. The gain of others may be anything.

    Returns:
        (...) expected gains, float32 for half precision.

    Raises:
        TypeError, ValueError: as :func:`gibbs`; gains of allowed options that are not finite.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import expected_gain
        >>> expected_gain(torch.tensor([0.6, 0.2, 0.2]).log(), torch.tensor([1.0, 0.0, 0.0]), b=2.0)
        tensor(0.8182)
    """
    wide = check_utility("expected_gain", utility, mask)
    return expectation(log_gibbs(wide, check_scale("expected_gain", b)), check_gain("expected_gain", gain, wide))


def check_gain(op: str, gain: object, wide: Tensor, name: str = "gain") -> Tensor:
    """Checks gains of the shape of utilities, finite where an option is allowed; 0 elsewhere."""
    values = check_shape(op, name, gain)
    checks.shape(op, name, values, wide.shape, "(one gain for each option)")
    checks.same_device(op, name, values, wide, "utility")
    values = values.masked_fill(wide == -torch.inf, 0)
    checks.finite(op, name, values.detach())
    return values


class FittedB(NamedTuple):
    """The result of :func:`fit_b`.

    Example:
        >>> from probkernels.uncertainty import FittedB
        >>> FittedB(2.0, 0.8, 0.6, False).b
        2.0
    """

    b: float
    value: float  # expected gain, or NLL, at b
    at_one: float  # the same at b = 1
    at_bound: bool  # whether b is the largest one allowed: a still larger one may be better


def fit_b(
    utility: Tensor,
    target: Tensor,
    *,
    criterion: str = "expected_gain",
    mask: Tensor | None = None,
    most: float = 100.0,
) -> FittedB:
    """The scale b of :func:`gibbs` that is best on held-out data of which the targets can be trusted.

    "expected_gain" is right for rules that draw from the probabilities. "nll" asks for calibrated probabilities, which
    is another aim: with noisy labels it can ask for the opposite direction. If the gain rises with the utility, it
    rises with b without end, so that b is the bound ``most``.

    Args:
        utility: (N, M) utilities.
        target: labels (N,), integer, of which the gain is 1 for the label and 0 otherwise; or gains (N, M).
        criterion: "expected_gain", the largest mean, or "nll", the least mean negative log-likelihood, for labels.
        mask: (N, M) bool, True for options that are allowed.
        most: the largest b.

    Returns:
        ``FittedB(b, value, at_one, at_bound)``. Of b that are equally good up to rounding, it is the least that was
        tried.

    Raises:
        TypeError, ValueError: as :func:`gibbs`; no samples, "nll" without labels.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import fit_b
        >>> utility = torch.tensor([[1.0, 0.0]] * 4)
        >>> found = fit_b(utility, torch.tensor([0, 0, 0, 1]), criterion="nll")  # three of four are right
        >>> round(found.b, 4)  # log(3)
        1.0986
    """
    op = "fit_b"
    checks.one_of(op, "criterion", criterion, CRITERIA)
    checks.positive(op, "most", most)
    wide = check_utility(op, utility, mask).detach().double()
    if wide.ndim != 2 or not len(wide):
        raise ValueError(message(op, "utility", "shape (N, M) with N >= 1", f"shape {tuple(wide.shape)}"))
    value, slope = _objective(op, wide, target, criterion)
    least = min(LEAST_B, most / 2)
    grid = [0.0, *(least * (most / least) ** (n / GRID) for n in range(GRID)), float(most)]
    found = [value(b) for b in grid]
    rounding = ROUNDING * max(map(abs, found))
    top = next(n for n, x in enumerate(found) if x >= max(found) - rounding)
    b, best = grid[top], found[top]
    low, high = grid[max(top - 1, 0)], grid[min(top + 1, len(grid) - 1)]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    if (refined := value(high)) > best + rounding:
        b, best = high, refined
    sign = 1 if criterion == "expected_gain" else -1
    return FittedB(b, sign * best, sign * value(1.0), b == most)


def _objective(op: str, wide: Tensor, target: Tensor, criterion: str) -> tuple[Of, Of]:
    """What the fit maximizes, and its derivative: covariance of gain and utility, or the label's utility less the
    mean."""
    finite = wide.masked_fill(wide == -torch.inf, 0)
    if criterion == "nll" or not (isinstance(target, Tensor) and target.is_floating_point()):
        labels = check_labels(op, target, wide, "target")
        gain = torch.nn.functional.one_hot(labels, wide.shape[1]).double()
    else:
        gain = check_gain(op, target, wide, "target").detach().double()
    if criterion == "nll":
        own = chosen(finite, labels)
        return (
            lambda b: chosen(log_gibbs(wide, b), labels).mean().item(),
            lambda b: (own - expectation(log_gibbs(wide, b), finite)).mean().item(),
        )

    def slope(b: float) -> float:
        log_probs = log_gibbs(wide, b)
        means = expectation(log_probs, finite)[:, None]
        return expectation(log_probs, gain * (finite - means)).mean().item()

    return lambda b: expectation(log_gibbs(wide, b), gain).mean().item(), slope
