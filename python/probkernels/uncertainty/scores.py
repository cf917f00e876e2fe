"""Means over samples: distances to true probabilities, and proper scores of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ._inputs import Samples, pair, samples


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean in float64, returned in the dtype of the values."""
    return ((values * weight).sum() / weight.sum()).to(values.dtype)


def squared_distance(probs: Tensor, true: Tensor) -> Tensor:
    """(N,) squared distances, summed over classes."""
    squares = (probs - true).square()
    return squares if probs.ndim == 1 else squares.sum(1)


def divergence(probs: Tensor, true: Tensor, reverse: bool) -> Tensor:
    """(N,) divergences KL(true || probs), or of the reverse. 0 log 0 is 0."""
    p, q = (probs, true) if reverse else (true, probs)
    if p.ndim == 1:
        p, q = torch.stack([p, 1 - p], 1), torch.stack([q, 1 - q], 1)
    possible = p > 0  # where p is 0 the term is 0, and so is its gradient, for q = 0 too
    p, q = p.where(possible, 1), q.where(possible, 1)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


def brier_of(given: Samples) -> Tensor:
    """(N,) Brier scores."""
    probs, labels, _ = given
    if probs.ndim == 1:
        return (probs - labels).square()
    return (probs - torch.nn.functional.one_hot(labels, probs.shape[1])).square().sum(1)


def nll_of(given: Samples) -> Tensor:
    """(N,) negative log-probabilities of the labels."""
    probs, labels, _ = given
    chosen = torch.where(labels == 1, probs, 1 - probs) if probs.ndim == 1 else probs.gather(1, labels[:, None])[:, 0]
    return -chosen.log()


def mse_p(probs: Tensor, true_probs: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Mean squared distance of predicted from true probabilities, for data whose probabilities are known.

    It differs from the expected Brier score by a constant that no model changes, the mean of ``p (1 - p)``.
    From Liu et al., *Deep Probability Estimation*, ICML 2022, https://arxiv.org/abs/2111.10734.

    Args:
        probs: predicted probabilities, (N,) of class 1 or (N, C). Differentiable.
        true_probs: true probabilities of the same shape. For (N, C) the squares are summed over classes.
        sample_weight: (N,) weights >= 0.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Raises:
        TypeError: an argument of another dtype.
        ValueError: entries outside [0, 1], rows that do not sum to 1, no samples, unequal shapes or devices.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import mse_p
        >>> mse_p(torch.tensor([0.1, 0.4]), torch.tensor([0.2, 0.6]))
        tensor(0.0250)
    """
    probs, true, weight = pair("mse_p", probs, true_probs, sample_weight)
    return mean(squared_distance(probs, true), weight)


def kl_p(probs: Tensor, true_probs: Tensor, sample_weight: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """Mean Kullback-Leibler divergence KL(true || predicted), in nats.

    From Liu et al., *Deep Probability Estimation*, ICML 2022, https://arxiv.org/abs/2111.10734. No constant is added
    to the probabilities: the result is infinite if a possible class is given probability 0.

    ``probs``, ``true_probs`` and ``sample_weight`` are those of :func:`mse_p`, and so are the errors.

    Args:
        reverse: gives KL(predicted || true).

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import kl_p
        >>> kl_p(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 1.0]))
        tensor(0.3466)
    """
    probs, true, weight = pair("kl_p", probs, true_probs, sample_weight)
    return mean(divergence(probs, true, reverse), weight)


def brier(probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Brier score: mean squared distance of the probabilities from the outcome.

    Args:
        probs: (N,) probabilities of class 1: the mean of ``(p - y)²``, in [0, 1]. Or (N, C): the squares are summed
            over classes, in [0, 2]. Differentiable.
        labels: (N,) classes, integer or bool.
        sample_weight: (N,) weights >= 0.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Raises:
        TypeError: an argument of another dtype.
        ValueError: entries outside [0, 1], rows that do not sum to 1, labels out of range, no samples, unequal shapes.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import brier
        >>> brier(torch.tensor([0.5, 1.0]), torch.tensor([0, 1]))
        tensor(0.1250)
    """
    given = samples("brier", probs, labels, sample_weight)
    return mean(brier_of(given), given.weight)


def nll(probs: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the labels, in nats: the mean of ``-log p(label)``.

    It is infinite if a label has probability 0: nothing is clipped. For logits use ``cross_entropy`` of torch, which
    loses no digits where a probability is close to 1.

    ``probs``, ``labels`` and ``sample_weight`` are those of :func:`brier`, and so are the errors.

    Returns:
        A scalar of the dtype of ``probs`` (float32 for half precision).

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import nll
        >>> nll(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor(0.3466)
    """
    given = samples("nll", probs, labels, sample_weight)
    return mean(nll_of(given), given.weight)
