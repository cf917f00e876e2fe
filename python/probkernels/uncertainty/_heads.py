"""What a network's logits mean: one event, or C classes. Probabilities, soft targets and losses of both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message
from ._inputs import widened

HEADS = ("softmax", "sigmoid")


def check_logits(op: str, name: str, logits: object) -> Tensor:
    """Checks logits and returns them in float32 or float64: (N,) of one event, or (N, C)."""
    checks.float_tensor(op, name, logits)
    assert isinstance(logits, Tensor)
    if logits.ndim not in (1, 2) or 0 in logits.shape[1:]:
        wanted = "logits of shape (N,), (N, 1) or (N, C)"
        raise ValueError(message(op, name, wanted, f"shape {tuple(logits.shape)}", "flatten other dimensions"))
    return widened(logits.squeeze(1) if logits.ndim == 2 and logits.shape[1] == 1 else logits)


def is_binary(logits: Tensor, head: str) -> bool:
    """Whether checked logits are about one event: one logit, or two under a softmax."""
    return logits.ndim == 1 or (logits.shape[1] == 2 and head == "softmax")


def probabilities(logits: Tensor, head: str) -> Tensor:
    """(N,) probabilities of class 1, or (N, C), of checked logits."""
    if logits.ndim == 1 or head == "sigmoid":
        return logits.sigmoid()
    probs = logits.softmax(1)
    return probs[:, 1] if logits.shape[1] == 2 else probs


def hard_targets(labels: Tensor, logits: Tensor, head: str) -> Tensor:
    """Labels as targets of :func:`losses`."""
    if is_binary(logits, head):
        return labels.to(logits.dtype)
    return F.one_hot(labels.long(), logits.shape[1]).to(logits.dtype)


def losses(logits: Tensor, targets: Tensor, head: str) -> Tensor:
    """(N,) cross-entropies of checked logits with soft targets, (N,) for one event and (N, C) otherwise."""
    targets = targets.to(logits.dtype)
    if logits.ndim == 1:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if head == "sigmoid":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
    both = torch.stack([1 - targets, targets], 1) if targets.ndim == 1 else targets
    return F.cross_entropy(logits, both, reduction="none")
