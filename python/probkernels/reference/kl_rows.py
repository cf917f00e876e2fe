"""KL divergences between rows of logits, in plain torch: both softmaxes are stored."""

from __future__ import annotations

import torch
from torch import Tensor


def _centered(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits less the largest of their row, and that (N, 1)."""
    top = logits.detach().amax(1, keepdim=True)
    top = torch.where(top == -torch.inf, 0, top)
    return logits - top, top


def kl_rows(logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logits_p and logits_q (N, V) -> KL(softmax(p) || softmax(q)) (N), and float64 log-sum-exps of both (N)."""
    wide = torch.promote_types(logits_p.dtype, torch.float32)
    (p, top_p), (q, top_q) = _centered(logits_p.to(wide)), _centered(logits_q.to(wide))
    weight = p.exp()
    total_p, log_q = weight.sum(1), q.exp().sum(1).log()
    log_p = total_p.log()
    possible = p > -torch.inf
    missing = possible & (q == -torch.inf)  # possible under the first, impossible under the second
    gap = torch.where(possible & ~missing, p - q, 0)
    infinite = torch.where(missing.any(1), torch.inf, 0).to(wide)
    kl = (weight * gap).sum(1) / total_p - log_p + log_q + infinite
    return kl, top_p[:, 0].double() + log_p.double(), top_q[:, 0].double() + log_q.double()


def kl_rows_bwd(
    logits_p: Tensor,
    logits_q: Tensor,
    kl: Tensor,
    log_sums_p: Tensor,
    log_sums_q: Tensor,
    grad_kl: Tensor,
    grad_log_sums_p: Tensor,
    grad_log_sums_q: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of both logits (N, V): p (log(p / q) - KL) for the first, q - p for the second."""
    log_p, log_q = logits_p.double() - log_sums_p[:, None], logits_q.double() - log_sums_q[:, None]
    p, q, grad = log_p.exp(), log_q.exp(), grad_kl.double()[:, None]
    possible = logits_p != -torch.inf
    surplus = torch.where(possible, log_p - log_q - kl.double()[:, None], 0)
    grad_p = p * (grad * surplus + grad_log_sums_p[:, None])
    grad_q = grad * (q - p) + grad_log_sums_q[:, None] * q
    return grad_p.to(logits_p.dtype), grad_q.to(logits_q.dtype)
