"""How well scores rank: area under the ROC curve and average precision. One sort each; ties are exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core import checks
from ._inputs import Samples, columns, scored

AVERAGES = ("macro", "none")


def _groups(scores: Tensor, hit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of positives and of negatives at or above each distinct score, from the highest score down."""
    ordered, order = scores.sort(descending=True)
    positive = weight[order] * hit[order]
    ends = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=scores.device)])
    return positive.cumsum(0)[ends], (weight[order] - positive).cumsum(0)[ends]


def _auroc(scores: Tensor, hit: Tensor, weight: Tensor) -> Tensor:
    true, false = _groups(scores, hit, weight)
    before = torch.nn.functional.pad(true, (1, 0))[:-1]
    steps = torch.diff(false, prepend=false.new_zeros(1))
    return (steps * (before + true)).sum() / (2 * true[-1] * false[-1])  # 0/0 = NaN: only one class


def _average_precision(scores: Tensor, hit: Tensor, weight: Tensor) -> Tensor:
    true, false = _groups(scores, hit, weight)
    steps = torch.diff(true, prepend=true.new_zeros(1))
    return (steps * true / (true + false)).sum() / true[-1]  # 0/0 = NaN: no positives


def _over_classes(metric: Callable[..., Tensor], given: Samples, average: str) -> Tensor:
    most = given.weight.amax()
    weight = given.weight / 2.0 ** most.log2().floor().clamp(min=-1022)  # near 1, so that products stay in range; exact
    each = torch.stack([metric(scores, hit, weight) for scores, hit in columns(given)])
    if given.probs.ndim == 1:
        return each[0]
    return each.nanmean() if average == "macro" else each


def auroc_of(given: Samples, average: str) -> Tensor:
    """The area in float64, of checked scores."""
    return _over_classes(_auroc, given, average)


def average_precision_of(given: Samples, average: str) -> Tensor:
    """Average precision in float64, of checked scores."""
    return _over_classes(_average_precision, given, average)


def auroc(scores: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, average: str = "macro") -> Tensor:
    """Area under the ROC curve: how often a positive sample scores above a negative one. A tie counts one half.

    Args:
        scores: (N,) scores of class 1, or (N, C) scores of C classes, each ranked against the rest. Any numbers.
        labels: (N,) classes, integer or bool.
        sample_weight: (N,) weights >= 0. A weight of 2 equals a repeated sample.
        average: for (N, C): "macro" is the mean over classes with positives and negatives, "none" gives (C,).

    Returns:
        A scalar, or (C,), of the dtype of ``scores`` (float32 for half precision). NaN if the samples are all
        positive or all negative.

    Raises:
        TypeError: an argument of another dtype.
        ValueError: NaN scores, labels out of range, no samples, unequal shapes or devices, negative weights.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import auroc
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        tensor(0.8750)
    """
    checks.one_of("auroc", "average", average, AVERAGES)
    given = scored("auroc", scores, labels, sample_weight)
    return auroc_of(given, average).to(given.probs.dtype)


def average_precision(
    scores: Tensor, labels: Tensor, sample_weight: Tensor | None = None, *, average: str = "macro"
) -> Tensor:
    """Average precision: the precision at each distinct score, weighted by the recall it adds. No interpolation.

    ``scores``, ``labels`` and ``sample_weight`` are those of :func:`auroc`, and so are the errors.

    Args:
        average: for (N, C): "macro" is the mean over classes that occur, "none" gives (C,).

    Returns:
        A scalar, or (C,), of the dtype of ``scores`` (float32 for half precision). NaN without positive samples.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import average_precision
        >>> average_precision(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        tensor(0.8333)
    """
    checks.one_of("average_precision", "average", average, AVERAGES)
    given = scored("average_precision", scores, labels, sample_weight)
    return average_precision_of(given, average).to(given.probs.dtype)
