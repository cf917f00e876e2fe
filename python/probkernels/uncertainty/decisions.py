"""Rules that decide by utilities or probabilities. Each says whether it needs their scale or only their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._options import NO_OPTION, check_log_probs, check_mask, check_shape, check_utility, chosen, expectation
from .conversions import check_scale, gibbs, log_gibbs
from .gibbs_fit import check_gain

ABSTAIN = -1


class Decision(NamedTuple):
    """What a rule chose in each row, and its expected gain.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import abstain
        >>> abstain(torch.tensor([[0.6, 0.4]]).log(), cost=0.3)
        Decision(choice=tensor([-1]), value=tensor([0.7000]))
    """

    choice: Tensor  # (...) int64
    value: Tensor  # (...)


def minimum_bayes_risk(
    log_probs: Tensor, gain: Tensor, *, mask: Tensor | None = None, action_mask: Tensor | None = None
) -> Decision:
    """The action of the largest expected gain: ``argmax_i sum_j p_j gain[i, j]``, for all rows at once.

    For candidate sequences the actions are the candidates, and ``gain[i, j]`` says how good i is if j is right.

    Args:
        log_probs: (..., M) log-probabilities of what may be right, as :func:`gibbs` gives. Differentiable.
        gain: (A, M) gains of A actions, the same for all rows, or (..., A, M). Differentiable. In a table for each row,
            entries of masked options and actions may be anything.
        mask: (..., M) bool, True for options. Pass the one of the candidates again: a candidate of probability 0 is
            not a masked one.
        action_mask: (..., A) bool, True for actions that may be chosen. None: ``mask`` if A = M, otherwise all.

    Returns:
        ``Decision(choice, value)``: the first action of the largest expected gain, and that gain; both (...).

    Raises:
        TypeError: an argument of another dtype.
        ValueError: probabilities that do not sum to 1, gains that are not finite, unequal shapes, no action.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import minimum_bayes_risk
        >>> near = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.8], [0.0, 0.8, 1.0]])
        >>> minimum_bayes_risk(torch.tensor([[0.5, 0.0, 0.5]]).log(), near)  # between the two that may be right
        Decision(choice=tensor([1]), value=tensor([0.8000]))
    """
    op = "minimum_bayes_risk"
    wide = check_log_probs(op, log_probs, mask)
    table, allowed = _gains(op, gain, wide, mask, action_mask)
    probs = wide.exp().to(torch.promote_types(wide.dtype, table.dtype))
    expected = (table.to(probs.dtype) @ probs[..., None])[..., 0]
    if allowed is not None:
        expected = expected.masked_fill(~allowed, -torch.inf)
    choice = expected.detach().argmax(-1)
    return Decision(choice, chosen(expected, choice))


def _gains(
    op: str, gain: Tensor, wide: Tensor, mask: Tensor | None, action_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Checked gains (A, M) or (..., A, M), 0 where masked, and which actions (..., A) may be chosen."""
    table = check_shape(op, "gain", gain)
    rows, options = wide.shape[:-1], wide.shape[-1]
    if table.ndim < 2 or table.shape[-1] != options or table.shape[:-2] not in ((), rows) or not table.shape[-2]:
        wanted = f"shape (A, {options}) or {(*rows, 'A', options)}".replace("'", "")
        raise ValueError(message(op, "gain", wanted, f"shape {tuple(table.shape)}"))
    checks.same_device(op, "gain", table, wide, "log_probs")
    allowed = mask if action_mask is None and table.shape[-2] == options else action_mask
    if action_mask is not None:
        check_mask(op, "action_mask", action_mask, wide.new_empty((*rows, table.shape[-2])), "gain @ log_probs")
        none = ~action_mask.any(-1)
        if none.any():
            got = f"no action in row {none.nonzero()[0].tolist()}"
            raise ValueError(message(op, "action_mask", "at least one action in each row", got, NO_OPTION))
    if table.ndim == wide.ndim + 1:  # a table for each row
        if mask is not None:
            table = table.masked_fill(~mask[..., None, :], 0)
        if allowed is not None:
            table = table.masked_fill(~allowed[..., None], 0)
    checks.finite(op, "gain", table.detach())
    return table, allowed


def abstain(log_probs: Tensor, cost: float, *, mask: Tensor | None = None) -> Decision:
    """The most probable option, or none where it is not probable enough. From Chow, *On Optimum Recognition Error and
    Reject Tradeoff*, 1970.

    An error costs 1 and an abstention ``cost``, so that the rule abstains where the largest probability is below
    ``1 - cost``. In gains: 1 for the right option, ``1 - cost`` for none, 0 for a wrong one.

    Args:
        log_probs: (..., M) log-probabilities, as :func:`gibbs` gives. Differentiable.
        cost: of an abstention, in [0, 1].
        mask: (..., M) bool, True for options that are allowed.

    Returns:
        ``Decision(choice, value)``: the option, or -1 for none, and its expected gain; both (...).

    Raises:
        TypeError, ValueError: as :func:`minimum_bayes_risk`; a cost outside [0, 1].

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import abstain
        >>> abstain(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), cost=0.3).choice
        tensor([ 0, -1])
    """
    checks.unit_interval("abstain", "cost", cost)
    top, choice = check_log_probs("abstain", log_probs, mask).max(-1)
    probs, certain = top.exp(), 1 - cost
    unsure = probs < certain
    return Decision(choice.masked_fill(unsure, ABSTAIN), probs.masked_fill(unsure, certain))


def sample_gibbs(
    utility: Tensor,
    b: float | Tensor = 1.0,
    *,
    count: int = 1,
    top_p: float = 1.0,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws options from :func:`gibbs`, with replacement.

    Args:
        utility: (..., M) utilities.
        b: scale >= 0.
        count: number of draws for each row.
        top_p: in (0, 1]: draws only from the fewest options whose probabilities, at this b, sum to at least ``top_p``.
        mask: (..., M) bool, True for options that are allowed.
        generator: random numbers, on the device of ``utility``. None: torch's own.

    Returns:
        (..., count) indices, int64.

    Raises:
        TypeError, ValueError: as :func:`gibbs`; ``count`` < 1, ``top_p`` out of range.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import sample_gibbs
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = sample_gibbs(torch.tensor([0.6, 0.2, 0.2]).log(), b=2.0, count=1000, generator=generator)
        >>> bool(((drawn == 0).double().mean() - 0.8182).abs() < 0.05)
        True
    """
    op = "sample_gibbs"
    checks.integer(op, "count", count)
    checks.positive_fraction(op, "top_p", top_p)
    log_probs = log_gibbs(check_utility(op, utility, mask).detach(), check_scale(op, b))
    return _drawn(_nucleus(log_probs, top_p), count, generator)


def _drawn(log_probs: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    flat = log_probs.detach().exp().flatten(0, -2) if log_probs.ndim > 1 else log_probs.detach().exp()[None]
    if not len(flat):
        return flat.new_empty((*log_probs.shape[:-1], count), dtype=torch.int64)
    found = torch.multinomial(flat, count, replacement=True, generator=generator)
    return found.view(*log_probs.shape[:-1], count)


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Log-probabilities of the fewest options that sum to ``top_p``, made to sum to 1. Of a tie the first ones stay."""
    if top_p == 1:
        return log_probs
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    probs = ordered.exp()
    above = probs.cumsum(-1) - probs  # of options that are more probable
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, above >= top_p)
    return log_probs.masked_fill(dropped, -torch.inf).log_softmax(-1)


# --- rules as objects ---


class DecisionRule:
    """Base of rules that choose an option by log-probabilities (N, M).

    Attributes:
        ordinal_invariant: whether every increasing function of the utilities of a row leaves the choice as it is.
            Otherwise the rule needs their scale, and a conversion such as :func:`gibbs` with another b changes it.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ArgmaxRule, DecisionRule
        >>> isinstance(ArgmaxRule(), DecisionRule)
        True
    """

    ordinal_invariant = False

    def choose(self, log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The choice in each row (N,); -1 for none."""
        raise NotImplementedError

    def values(self, log_probs: Tensor, gain: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """What the choice of each row gains (N,), given the true gain (N, A) of each action."""
        return _gain_of(type(self).__name__, gain, self.choose(log_probs, mask=mask))

    def __repr__(self) -> str:
        """Name and options, for the rows of :func:`compare_rules`; of a tensor its shape."""
        options = {k: tuple(v.shape) if isinstance(v, Tensor) else v for k, v in vars(self).items() if k != "generator"}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in options.items())})"


def _gain_of(op: str, gain: Tensor, choice: Tensor, none: float = 0.0) -> Tensor:
    """The gain (N,) of each choice, ``none`` where there is none."""
    table = check_shape(op, "gain", gain)
    if table.shape[:-1] != choice.shape or (choice >= table.shape[-1]).any():
        wanted = f"shape {(*choice.shape, 'A')}, a gain for each action".replace("'", "")
        raise ValueError(message(op, "gain", wanted, f"shape {tuple(table.shape)}"))
    found = chosen(table, choice.clamp_min(0)).masked_fill(choice < 0, none)
    checks.finite(op, "gain", found.detach())
    return found


class ArgmaxRule(DecisionRule):
    """Chooses the most probable option, the first one of a tie. It needs the order of utilities only.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ArgmaxRule
        >>> ArgmaxRule().choose(torch.tensor([[0.2, 0.8]]).log())
        tensor([1])
    """

    ordinal_invariant = True

    def choose(self, log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The choice in each row (N,)."""
        return check_log_probs("ArgmaxRule", log_probs, mask).argmax(-1)


class SamplingRule(DecisionRule):
    """Draws an option. Its value is the expectation over draws, without drawing.

    Args:
        top_p: see :func:`sample_gibbs`.
        generator: random numbers of ``choose``.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import SamplingRule
        >>> SamplingRule().values(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.0, 1.0]]))
        tensor([0.8000])
    """

    def __init__(self, top_p: float = 1.0, generator: torch.Generator | None = None) -> None:
        checks.positive_fraction("SamplingRule", "top_p", top_p)
        self.top_p, self.generator = top_p, generator

    def choose(self, log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """One draw for each row (N,)."""
        wide = check_log_probs("SamplingRule", log_probs, mask)
        return _drawn(_nucleus(wide, self.top_p), 1, self.generator)[..., 0]

    def values(self, log_probs: Tensor, gain: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The expected gain of a draw (N,)."""
        wide = check_log_probs("SamplingRule", log_probs, mask)
        return expectation(_nucleus(wide, self.top_p), check_gain("SamplingRule", gain, wide))


class BayesRule(DecisionRule):
    """Chooses by :func:`minimum_bayes_risk`.

    Args:
        gain: (A, M) or (N, A, M), what the rule believes that action i gains if option j is right.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import BayesRule
        >>> BayesRule(torch.eye(2)).choose(torch.tensor([[0.2, 0.8]]).log())
        tensor([1])
    """

    def __init__(self, gain: Tensor) -> None:
        self.gain = check_shape("BayesRule", "gain", gain)

    def choose(self, log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The choice in each row (N,)."""
        return minimum_bayes_risk(log_probs, self.gain, mask=mask).choice


class AbstainRule(DecisionRule):
    """Chooses by :func:`abstain`. Gains should be 1 for the right option and 0 for others.

    Args:
        cost: of an abstention, in [0, 1], which gains ``1 - cost``.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import AbstainRule
        >>> AbstainRule(0.1).choose(torch.tensor([[0.2, 0.8]]).log())
        tensor([-1])
    """

    def __init__(self, cost: float) -> None:
        checks.unit_interval("AbstainRule", "cost", cost)
        self.cost = cost

    def choose(self, log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The choice in each row (N,); -1 for none."""
        return abstain(log_probs, self.cost, mask=mask).choice

    def values(self, log_probs: Tensor, gain: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """What the choice of each row gains (N,)."""
        return _gain_of("AbstainRule", gain, self.choose(log_probs, mask=mask), 1 - self.cost)


class RuleValue(NamedTuple):
    """A row of :func:`compare_rules`.

    Example:
        >>> from probkernels.uncertainty import RuleValue
        >>> RuleValue("ArgmaxRule()", True, 0.9, 0.9).at_b
        0.9
    """

    rule: str
    ordinal_invariant: bool
    at_one: float  # mean gain at b = 1
    at_b: float


def compare_rules(
    rules: Sequence[DecisionRule], utility: Tensor, gain: Tensor, b: float, *, mask: Tensor | None = None
) -> list[RuleValue]:
    """The mean gain of decision rules at b = 1 and at a fitted b.

    Args:
        rules: the rules.
        utility: (N, M) utilities.
        gain: (N, A) true gain of each action in each row.
        b: scale of :func:`gibbs`.
        mask: (N, M) bool, True for options that are allowed.

    Raises:
        TypeError, ValueError: as :func:`gibbs`; another shape of ``gain``.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import ArgmaxRule, SamplingRule, compare_rules
        >>> utility, gain = torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[1.0, 0.0]])
        >>> for row in compare_rules([ArgmaxRule(), SamplingRule()], utility, gain, b=2.0):
        ...     print(row.ordinal_invariant, round(row.at_one, 2), round(row.at_b, 2))
        True 1.0 1.0
        False 0.6 0.69
    """
    op = "compare_rules"
    wide = check_shape(op, "utility", utility)
    if wide.ndim != 2 or not len(wide):
        raise ValueError(message(op, "utility", "shape (N, M) with N >= 1", f"shape {tuple(wide.shape)}"))
    stray = [rule for rule in rules if not isinstance(rule, DecisionRule)] if isinstance(rules, Sequence) else [rules]
    if stray:
        raise TypeError(message(op, "rules", "a list of rules such as ArgmaxRule()", checks.describe(stray[0])))
    one, other = gibbs(utility, 1.0, mask=mask), gibbs(utility, b, mask=mask)
    found = []
    for rule in rules:
        means = (rule.values(log_probs, gain, mask=mask).double().mean().item() for log_probs in (one, other))
        found.append(RuleValue(repr(rule), rule.ordinal_invariant, *means))
    return found
