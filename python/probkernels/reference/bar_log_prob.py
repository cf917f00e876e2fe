"""Log-probabilities of chosen entries of a softmax, in plain torch: all exponentials are stored."""

from __future__ import annotations

import torch
from torch import Tensor


def bar_log_prob(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """logits (N, K), index (N) -> log softmax(logits)[n, index[n]] (N) and the float64 log-sum-exp of each row (N)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = wide.detach().amax(1)
    top = torch.where(top == -torch.inf, 0, top)
    log_sum = (wide - top[:, None]).exp().sum(1).log()
    picked = wide.gather(1, index[:, None]).squeeze(1)
    return picked - top - log_sum, top.double() + log_sum.double()


def bar_log_prob_bwd(
    logits: Tensor, index: Tensor, log_sums: Tensor, grad_log_prob: Tensor, grad_log_sums: Tensor
) -> Tensor:
    """The gradient of logits (N, K): that of a log-probability is the one-hot row minus the softmax."""
    share = (logits.double() - log_sums[:, None]).exp()
    chosen = torch.arange(logits.shape[1], device=logits.device) == index[:, None]
    grad = grad_log_prob.double()[:, None]
    return (share * (grad_log_sums[:, None] - grad) + torch.where(chosen, grad, 0)).to(logits.dtype)
