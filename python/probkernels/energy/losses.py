"""What a Boltzmann machine is trained with: random masks and a class-balanced focal loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


def random_mask(shape: tuple[int, ...], share: float, generator: torch.Generator | None = None) -> Tensor:
    """A bool tensor in which each entry is True (observed) with probability ``share``, independently.

    Args:
        shape: shape of the mask, such as (batch, groups).
        share: in [0, 1].
        generator: source of randomness.

    Raises:
        TypeError, ValueError: ``share`` is wrong.

    Example:
        >>> import torch
        >>> from probkernels.energy import random_mask
        >>> random_mask((2, 3), 1.0).all()
        tensor(True)
    """
    checks.unit_interval("random_mask", "share", share)
    return torch.rand(shape, generator=generator) < share


def focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, beta: float = 0.9999, balanced: bool = True
) -> Tensor:
    """Cross-entropy that weighs rare classes and uncertain predictions more.

    The loss of a sample is ``-w (1 - p)^gamma log p`` with p the probability of its target, and w proportional to
    ``(1 - beta) / (1 - beta^count)``, where count is how often the batch has that target. The weights have mean 1 over
    the samples, and carry no gradient themselves; ``(1 - p)^gamma`` does.

    Args:
        logits: (N, classes).
        target: (N) integers in [0, classes).
        gamma: >= 0; 0 is the cross-entropy.
        beta: in [0, 1); 0 weighs all classes alike.
        balanced: False leaves w = 1.

    Returns:
        The mean, a 0-d tensor; 0 for N = 0.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Reference: Cui, Jia, Lin, Song, Belongie, "Class-balanced loss based on effective number of samples", CVPR 2019.

    Example:
        >>> import torch
        >>> from probkernels.energy import focal_loss
        >>> round(float(focal_loss(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))), 4)  # log(2) / 4
        0.1733
    """
    op = "focal_loss"
    checks.float_tensor(op, "logits", logits)
    checks.integer_tensor(op, "target", target)
    if logits.dim() != 2:
        raise ValueError(message(op, "logits", "shape (samples, classes)", f"shape {tuple(logits.shape)}"))
    checks.shape(op, "target", target, logits.shape[:1], "(a class for each row of 'logits')")
    checks.non_negative(op, "gamma", gamma)
    checks.fraction(op, "beta", beta)
    if not len(target):
        return logits.sum()
    wrong = (target < 0) | (target >= logits.shape[1])
    if bool(wrong.any()):
        raise ValueError(message(op, "target", f"classes below {logits.shape[1]}", checks.offender(target, wrong)))
    log_p = logits.log_softmax(1).gather(1, target.long()[:, None])[:, 0]
    loss = -((1 - log_p.exp()) ** gamma) * log_p if gamma else -log_p
    if balanced:
        counts = target.long().bincount(minlength=logits.shape[1]).to(logits.dtype)
        weights = ((1 - beta) / (1 - beta**counts))[target.long()]
        loss = loss * (weights / weights.mean())
    return loss.mean()
