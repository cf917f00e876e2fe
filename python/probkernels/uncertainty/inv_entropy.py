"""Inv-Entropy of similarity matrices: two random walks, their inverse model, bootstraps over replies, and TSU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ._similarity import similarities

MEASURES = ("inv", "ni", "wd", "max")
BLOCK = 1 << 20  # entries of the matrices of some bootstraps, which are computed together


class InverseModel(NamedTuple):
    """The two random walks as a joint distribution of inputs X and outputs Y.

    Attributes:
        p_x: (..., N) probabilities of the inputs.
        p_y: (..., N) probabilities of the outputs.
        x_given_y: (..., N, N), row j and column i: the probability of input i given output j. Rows sum to 1.
        y_given_x: (..., N, N), row j and column i: the probability of output j given input i. Columns sum to 1.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import inverse_model
        >>> model = inverse_model(torch.eye(2), torch.ones(2, 2))
        >>> model.x_given_y
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    p_x: Tensor
    p_y: Tensor
    x_given_y: Tensor
    y_given_x: Tensor


def walk(similarity: Tensor) -> Tensor:
    """Each row divided by its sum, and before that by its largest entry, so that no sum overflows."""
    scaled = similarity / similarity.detach().amax(-1, keepdim=True)
    return scaled / scaled.sum(-1, keepdim=True)


def _step(p: Tensor, walk: Tensor) -> Tensor:
    return (p[..., None, :] @ walk)[..., 0, :]


def _pair(op: str, sx: Tensor, sy: Tensor, replications: int = 1) -> tuple[Tensor, Tensor, torch.dtype]:
    x, y = similarities(op, "sx", sx), similarities(op, "sy", sy)
    checks.same_device(op, "sy", sy, sx, "sx")
    if y.shape[-1] != x.shape[-1] * replications:
        wanted = f"{x.shape[-1]} outputs, one for each row of 'sx'"
        if replications != 1:
            wanted = f"{x.shape[-1] * replications} outputs, {replications} for each row of 'sx'"
        raise ValueError(message(op, "sy", wanted, f"shape {tuple(sy.shape)}"))
    try:
        torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        wanted = f"dimensions before the last two that go with {tuple(sx.shape[:-2])} of 'sx'"
        raise ValueError(message(op, "sy", wanted, f"shape {tuple(sy.shape)}")) from None
    narrow = torch.promote_types(sx.dtype, sy.dtype)
    return x, y, torch.float64 if narrow is torch.float64 else torch.float32


def _marginals(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """P(X) and P(Y) of two walks. P(X) is the sum over y of P(X | y) P(y)."""
    p_y = y.mean(-2)
    return _step(_step(p_y, y), x), p_y


def _measure(x: Tensor, y: Tensor, measure: str) -> Tensor:
    """A measure (...) of the walks ``x`` and ``y`` (..., N, N)."""
    own = (y * x.mT).sum(-1)  # the diagonal of y @ x
    if measure == "inv":
        return torch.special.entr(own).sum(-1)
    p_x, p_y = _marginals(x, y)
    if measure == "wd":
        p_x, p_y = torch.broadcast_tensors(p_x, p_y)
        return (p_x.sort(-1).values - p_y.sort(-1).values).abs().mean(-1)
    own = own * p_y / p_x
    return torch.special.entr(own).sum(-1) if measure == "ni" else own.amax(-1)


def inverse_model(sx: Tensor, sy: Tensor) -> InverseModel:
    """The distributions behind :func:`inv_entropy`, of inputs X and outputs Y.

    ``P_x`` and ``P_y`` are the similarities with rows divided by their sums. ``P(Y)`` is the mean row of ``P_y``,
    ``P(X | Y)`` is ``P_y P_x``, and the other two follow by Bayes' theorem. (The paper prints another ``P(X)``, with
    which ``P(Y | X)`` would not sum to 1; the authors' code has this one.)

    Args:
        sx: (..., N, N) similarities of N inputs, as for :func:`inv_entropy`.
        sy: (..., N, N) similarities of their outputs.

    Returns:
        An :class:`InverseModel` of float32 tensors, or of float64 if an argument is float64.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: the errors of :func:`inv_entropy`.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import inverse_model
        >>> sx = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.4], [0.5, 0.4, 1.0]])
        >>> sy = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 1.0]])
        >>> inverse_model(sx, sy).p_y
        tensor([0.3395, 0.3610, 0.2994])
    """
    x, y, dtype = _pair("inverse_model", sx, sy)
    x, y = walk(x), walk(y)
    p_x, p_y = _marginals(x, y)
    x_given_y = y @ x
    y_given_x = x_given_y * p_y[..., :, None] / p_x[..., None, :]
    return InverseModel(*(part.to(dtype) for part in (p_x, p_y, x_given_y, y_given_x)))


def inv_entropy(sx: Tensor, sy: Tensor, measure: str = "inv") -> Tensor:
    """Inv-Entropy: how uncertain a model is about a question, from paraphrases of it and an answer to each.

    From Song et al., *Inv-Entropy*, NeurIPS 2025, https://arxiv.org/abs/2506.09684. Row-normalized similarities are two
    random walks ``P_x`` and ``P_y``. With ``c_i = (P_y P_x)_ii``, the probability of paraphrase i given its own answer,
    the score is ``- sum c_i log c_i``. The c_i are not normalized: their size is what answers add to similar questions.

    The score lies between 0 and N / e. Equal answers to equal questions score log N, so compare scores of one N only.
    Take N >= 10 versions that are close to the original: the score falls again where c_i is above 1/e, and questions
    and answers that have nothing in common score 0.

    Args:
        sx: (..., N, N) similarities of N versions of a question: symmetric, >= 0, positive on the diagonal. Any scale.
        sy: (..., N, N) similarities of the answers. Dimensions before the last two are broadcast.
        measure: "inv"; "ni" puts ``P(y_i | x_i)`` in place of c_i; "max" is the largest ``P(y_i | x_i)``; "wd" is the
            mean distance of the sorted probabilities P(X) from the sorted P(Y), as the authors compute it, and does not
            always rise with uncertainty.

    Returns:
        (...) scores, higher is more uncertain; float32, or float64 if an argument is float64. Differentiable in both.
        Computed in float64 at O(N^2) each.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: shapes that do not match, N < 2, entries that are negative or not finite, a matrix that is not
            symmetric, an unknown ``measure``.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import inv_entropy
        >>> sx = 0.8 + 0.2 * torch.eye(10)  # ten similar questions
        >>> same, other = torch.ones(10, 10), torch.eye(10)  # equal answers, and unlike ones
        >>> inv_entropy(sx, torch.stack([same, other]))
        tensor([2.3026, 2.5660])
    """
    checks.one_of("inv_entropy", "measure", measure, MEASURES)
    x, y, dtype = _pair("inv_entropy", sx, sy)
    return _measure(walk(x), walk(y), measure).to(dtype)


def draw_replies(
    shape: tuple[int, ...], replications: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Random numbers of replies, on the generator's device first, so that a seed means the same on all devices."""
    source = device if generator is None else generator.device
    return torch.randint(replications, shape, generator=generator, device=source).to(device)


def bootstrapped(x: Tensor, y: Tensor, picks: Tensor, replications: int, measure: str) -> Tensor:
    """A measure (..., B) of the walk ``x`` and of answers whose replies ``picks`` (..., B, N) names."""
    step = max(BLOCK // max(picks[..., 0, :].numel() * picks.shape[-1], 1), 1)  # bootstraps at a time
    parts = picks.split(step, -2)
    return torch.cat([_of_picks(x, y, part, replications, measure) for part in parts], -1)


def _of_picks(x: Tensor, y: Tensor, picks: Tensor, replications: int, measure: str) -> Tensor:
    count, batch = x.shape[-1], picks.shape[:-2]
    rows = picks + torch.arange(count, device=picks.device) * replications
    entries = rows[..., :, None] * y.shape[-1] + rows[..., None, :]  # in the flattened matrix
    y = y.expand(*batch, *y.shape[-2:]).flatten(-2).gather(-1, entries.flatten(-3)).view(entries.shape)
    return _measure(x[..., None, :, :], walk(y), measure)


def bootstrap_inv_entropy(
    sx: Tensor,
    sy: Tensor,
    replications: int,
    bootstraps: int = 30,
    measure: str = "inv",
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Scores of :func:`inv_entropy` when each version of the question was asked several times.

    Each bootstrap draws one reply for each version, uniformly and with replacement over bootstraps, so that any number
    of them works; with one reply all are equal. The mean over bootstraps is the paper's Inv-Entropy.

    Args:
        sx: (..., N, N) similarities of N versions of the question.
        sy: (..., N r, N r) similarities of all replies, r in a row for each version.
        replications: r, the number of replies to each version.
        bootstraps: B, the number of bootstraps.
        measure: as for :func:`inv_entropy`.
        generator: source of the random numbers; None takes torch's own.

    Returns:
        (..., B) scores; dtype and derivatives are those of :func:`inv_entropy`.

    Raises:
        TypeError, ValueError: those of :func:`inv_entropy`; a number that is not a whole number >= 1.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import bootstrap_inv_entropy
        >>> sx, sy = 0.8 + 0.2 * torch.eye(10), 0.5 + 0.5 * torch.eye(50)
        >>> draws = bootstrap_inv_entropy(sx, sy, 5, bootstraps=3)
        >>> draws
        tensor([2.3284, 2.3284, 2.3284])
    """
    op = "bootstrap_inv_entropy"
    checks.integer(op, "replications", replications)
    checks.integer(op, "bootstraps", bootstraps)
    checks.one_of(op, "measure", measure, MEASURES)
    x, y, dtype = _pair(op, sx, sy, replications)
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    picks = draw_replies((*batch, bootstraps, x.shape[-1]), replications, generator, x.device)
    return bootstrapped(walk(x), y, picks, replications, measure).to(dtype)


def tsu(scores: Tensor) -> Tensor:
    """Temperature sensitivity of uncertainty: the share of questions whose score rises strictly with the temperature.

    It judges a measure of uncertainty without knowing right answers. Noise has 1 / m! for m temperatures.

    Args:
        scores: (..., questions, temperatures) scores, temperatures in rising order, at least two.

    Returns:
        (...) shares of the dtype of ``scores`` (float32 for half precision).

    Raises:
        TypeError: ``scores`` is no floating-point tensor.
        ValueError: no question, fewer than two temperatures, NaN.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import tsu
        >>> tsu(torch.tensor([[0.1, 0.4, 0.5], [0.3, 0.3, 0.4]]))
        tensor(0.5000)
    """
    checks.float_tensor("tsu", "scores", scores, checks.AS_TENSOR)
    if scores.ndim < 2 or scores.shape[-1] < 2 or scores.shape[-2] == 0:
        wanted = "shape (..., questions, temperatures) with at least one question and two temperatures"
        raise ValueError(message("tsu", "scores", wanted, f"shape {tuple(scores.shape)}"))
    if numbers_known(scores) and scores.isnan().any():
        raise ValueError(message("tsu", "scores", "numbers", checks.offender(scores, scores.isnan())))
    rising = (scores[..., 1:] > scores[..., :-1]).all(-1)
    return rising.double().mean(-1).to(torch.float64 if scores.dtype is torch.float64 else torch.float32)
