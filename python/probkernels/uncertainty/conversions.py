"""Utilities into probabilities: the Gibbs family over options and sequences, utility drift, and gaps of utility.

From the idea of Huang and Yuan, *Utility-Probability Duality of Neural Networks*, https://arxiv.org/abs/2305.14859. Its
conversion equation was not available; what is here is derived or chosen by us.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from ._inputs import widened
from ._options import check_labels, check_mask, check_shape, check_utility, chosen


class Converted(NamedTuple):
    """Utilities of candidates, and what a conversion made of them.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import gibbs_sequence
        >>> gibbs_sequence(torch.tensor([[-1.0, -1.0]])).utility
        tensor([[-1., -1.]])
    """

    utility: Tensor  # (B, M), -inf where masked
    log_probs: Tensor  # (B, M), -inf where masked


def check_scale(op: str, b: float | Tensor) -> float | Tensor:
    """Checks a finite scale b >= 0. A tensor must be a scalar and stays one, for its gradient."""
    if isinstance(b, Tensor) and b.ndim:
        raise ValueError(message(op, "b", "a number or a scalar tensor", checks.describe(b)))
    value = checks.number(op, "b", b.detach() if isinstance(b, Tensor) else b)
    if value < 0:
        raise ValueError(message(op, "b", "a number >= 0", repr(value), "0 is uniform, 1 the softmax"))
    return b if isinstance(b, Tensor) else value


def log_gibbs(wide: Tensor, b: float | Tensor) -> Tensor:
    """Log-probabilities of checked utilities. The largest utility is taken off first and b is finite in the dtype, so
    that nothing overflows to NaN."""
    most = torch.finfo(wide.dtype).max
    b = b.to(wide).clamp(max=most) if isinstance(b, Tensor) else min(b, most)
    banned = wide == -torch.inf
    top = wide.detach().amax(-1, keepdim=True)
    below = (wide - top).masked_fill(banned, 0).clamp_min(-most)
    return (b * below).masked_fill(banned, -torch.inf).log_softmax(-1)


def gibbs(utility: Tensor, b: float | Tensor = 1.0, *, mask: Tensor | None = None) -> Tensor:
    """Log-probabilities proportional to ``exp(b * utility)``: of all distributions with the same expected utility, the
    one of the largest entropy.

    Args:
        utility: (..., M) utilities of M options, such as logits. An option of -inf is not allowed. Differentiable.
        b: scale >= 0, a number or a scalar tensor, then differentiable. 0 is uniform, 1 the softmax; the larger, the
            nearer to the best option alone.
        mask: (..., M) bool, True for options that are allowed.

    Returns:
        (..., M) log-probabilities, float32 for half precision; -inf where an option is not allowed. ``utility`` is not
        changed.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: NaN or +inf, a row without an allowed option, b below 0 or not finite, unequal shapes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import gibbs
        >>> utility = torch.tensor([0.6, 0.2, 0.2]).log()
        >>> gibbs(utility, b=2.0).exp()
        tensor([0.8182, 0.0909, 0.0909])
    """
    return log_gibbs(check_utility("gibbs", utility, mask), check_scale("gibbs", b))


def sequence_scores(token_log_probs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probability and length of each candidate sequence. Padding counts for neither.

    Args:
        token_log_probs: (B, M, L) log-probability of each token of M candidates, differentiable. Entries of padding may
            be anything.
        mask: (B, M, L) bool, True for tokens, False for padding. None: no padding.

    Returns:
        Scores (B, M), float32 for half precision, and lengths (B, M), int64. Candidates of length 0 are no candidates:
        ``lengths > 0`` is the mask for :func:`gibbs_sequence`.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: another number of dimensions, unequal shapes, NaN, or log-probabilities above 0.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import sequence_scores
        >>> tokens = torch.tensor([[[-1.0, -0.5], [-2.0, float("nan")]]])
        >>> sequence_scores(tokens, torch.tensor([[[True, True], [True, False]]]))
        (tensor([[-1.5000, -2.0000]]), tensor([[2, 1]]))
    """
    op, name = "sequence_scores", "token_log_probs"
    checks.float_tensor(op, name, token_log_probs, checks.AS_TENSOR)
    if token_log_probs.ndim != 3:
        raise ValueError(message(op, name, "shape (B, M, L)", f"shape {tuple(token_log_probs.shape)}"))
    wide = widened(token_log_probs)
    if mask is None:
        mask = torch.ones_like(wide, dtype=torch.bool)
    check_mask(op, "mask", mask, wide, name)
    wide = wide.masked_fill(~mask, 0)
    wrong = ~(wide <= 1e-3)
    if wrong.any():
        raise ValueError(message(op, name, "log-probabilities, at most 0", checks.offender(wide.detach(), wrong)))
    return wide.sum(-1), mask.sum(-1)


def gibbs_sequence(
    scores: Tensor,
    b: float | Tensor = 1.0,
    *,
    lengths: Tensor | None = None,
    length_alpha: float = 0.0,
    mask: Tensor | None = None,
) -> Converted:
    """Probabilities of candidate sequences: the Gibbs distribution of their scores over the candidates.

    With b other than 1 this differs from a temperature of 1/b for each token, which normalizes token by token. A short
    list of candidates is biased: it holds too little of the probability of all sequences. Candidates that occur
    twice count twice; mask all but one.

    Args:
        scores: (B, M) log-probabilities of M candidates, as :func:`sequence_scores` gives. Differentiable.
        b: scale >= 0, see :func:`gibbs`.
        lengths: (B, M) numbers of tokens, integer; needed if ``length_alpha`` is not 0.
        length_alpha: the utility of a candidate is its score divided by its length to this power. 0: no division, which
            favors short candidates; 1: the mean over tokens.
        mask: (B, M) bool, True for candidates.

    Returns:
        ``Converted(utility, log_probs)``, both (B, M) and -inf where masked.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: as :func:`gibbs`; a candidate of length 0 that is not masked; no lengths though they are needed.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import gibbs_sequence
        >>> scores, lengths = torch.tensor([[-2.0, -3.0]]), torch.tensor([[2, 4]])
        >>> gibbs_sequence(scores, lengths=lengths, length_alpha=1.0).utility
        tensor([[-1.0000, -0.7500]])
    """
    op = "gibbs_sequence"
    wide = check_utility(op, scores, mask, "scores")
    if wide.ndim != 2:
        raise ValueError(message(op, "scores", "shape (B, M)", f"shape {tuple(wide.shape)}"))
    checks.non_negative(op, "length_alpha", length_alpha)
    if lengths is not None:
        _check_lengths(op, lengths, wide, mask)
        wide = wide / lengths.clamp_min(1).to(wide.dtype) ** length_alpha
    elif length_alpha:
        raise ValueError(message(op, "lengths", "lengths (B, M) for length_alpha > 0", "None"))
    return Converted(wide, log_gibbs(wide, check_scale(op, b)))


def _check_lengths(op: str, lengths: Tensor, wide: Tensor, mask: Tensor | None) -> None:
    checks.integer_tensor(op, "lengths", lengths)
    checks.shape(op, "lengths", lengths, wide.shape, "(that of 'scores')")
    checks.same_device(op, "lengths", lengths, wide, "scores")
    wrong = lengths < 1 if mask is None else (lengths < 1) & mask
    if wrong.any():
        got = checks.offender(lengths, wrong)
        raise ValueError(message(op, "lengths", "at least one token", got, "mask=lengths > 0 leaves padding out"))


def drift(utility: Tensor, start: Tensor, mean_probs: Tensor, steps: int | Tensor, lr: float) -> Tensor:
    """Frequencies of the labels that a utility was trained on, from how far it moved.

    Plain SGD on the cross-entropy moves the utility of label y by ``lr * (1 - p_y)`` and of others by ``-lr * p``. For
    utilities that are parameters themselves (a table, a row for each input) the frequencies are then exactly
    ``mean_probs + (utility - start) / (lr * steps)``. For a network, momentum or weight decay that is no identity.

    Args:
        utility: (..., C) utilities after training.
        start: (..., C) utilities before it.
        mean_probs: (..., C) mean of the softmax just before each step that visits the row.
        steps: number of such steps: a number, or (...) integers, one for each row.
        lr: learning rate. If it changed: the mean rate, with ``mean_probs`` weighted by the rates; the result is
            weighted likewise. A step on the mean loss of a batch is one step if the batch repeats one row.

    Returns:
        (..., C) frequencies, float32 for half precision. They are not clipped, and sum to 1 if no other step was taken.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: unequal shapes, numbers that are not finite, no steps, a rate that is not positive.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import drift
        >>> end = torch.tensor([0.2, -0.2])  # one step at rate 0.4 from zeros, on label 0
        >>> drift(end, torch.zeros(2), torch.tensor([0.5, 0.5]), steps=1, lr=0.4)
        tensor([1., 0.])
    """
    op = "drift"
    given = {"utility": utility, "start": start, "mean_probs": mean_probs}
    wide = {name: check_shape(op, name, value) for name, value in given.items()}
    for name, value in wide.items():
        checks.shape(op, name, value, wide["utility"].shape, "(that of 'utility')")
        checks.same_device(op, name, value, wide["utility"], "utility")
        checks.finite(op, name, value.detach())
    checks.positive(op, "lr", lr)
    if isinstance(steps, Tensor):
        checks.integer_tensor(op, "steps", steps)
        checks.shape(op, "steps", steps, wide["utility"].shape[:-1], "(one number for each row)")
        if (steps < 1).any():
            raise ValueError(message(op, "steps", "numbers >= 1", checks.offender(steps, steps < 1)))
        total: float | Tensor = lr * steps[..., None].to(wide["utility"].dtype)
    else:
        total = lr * checks.integer(op, "steps", steps)
    return wide["mean_probs"] + (wide["utility"] - wide["start"]) / total


def revealed_gap(utility: Tensor, labels: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
    """By how much the utility of an option exceeds that of the best other one. Negative: another one is preferred.

    A step of plain SGD on the cross-entropy raises the gap of the label to each other option by
    ``lr * (1 - p_label + p_other)``, whatever the probabilities are: it states a preference.

    Args:
        utility: (..., M) utilities. Differentiable.
        labels: (...) the option to compare, integer. None: every option.
        mask: (..., M) bool, True for options that are allowed.

    Returns:
        (...) gaps, without labels (..., M); float32 for half precision. Infinity if there is no other option, -inf for
        one that is not allowed.

    Raises:
        TypeError, ValueError: as :func:`gibbs`; labels out of range or not allowed.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import revealed_gap
        >>> revealed_gap(torch.tensor([[3.0, 1.0, 2.5]]))
        tensor([[ 0.5000, -2.0000, -0.5000]])
    """
    wide = check_utility("revealed_gap", utility, mask)
    padded = torch.nn.functional.pad(wide, (0, 1), value=-torch.inf)  # a single option too has a second best
    best = padded.topk(2, -1)
    place = torch.arange(wide.shape[-1], device=wide.device)
    other = torch.where(place == best.indices[..., :1], best.values[..., 1:], best.values[..., :1])
    gap = (wide - other).masked_fill(wide == -torch.inf, -torch.inf)
    return gap if labels is None else chosen(gap, check_labels("revealed_gap", labels, wide))


class GibbsLogitsProcessor:
    """:func:`gibbs` of each next token, for ``generate(logits_processor=[...])`` of transformers, which is not needed.

    The order of tokens stays. A beam search may change: each token is normalized by itself, as with a temperature of
    1/b, which is not :func:`gibbs_sequence`.

    Args:
        b: scale >= 0, such as that of :func:`fit_b` on tokens.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import GibbsLogitsProcessor
        >>> processor = GibbsLogitsProcessor(b=2.0)
        >>> processor(torch.tensor([[7]]), torch.tensor([[0.6, 0.2, 0.2]]).log()).exp()
        tensor([[0.8182, 0.0909, 0.0909]])
    """

    def __init__(self, b: float) -> None:
        check_scale("GibbsLogitsProcessor", b)
        self.b = b

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) of the next token -> log-probabilities of the same dtype; scores of -inf stay."""
        wide = check_utility("GibbsLogitsProcessor", scores, None, "scores")
        return log_gibbs(wide, self.b).to(scores.dtype)

    def __repr__(self) -> str:
        """The call that makes an equal object."""
        return f"GibbsLogitsProcessor(b={self.b})"
