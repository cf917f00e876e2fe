"""Softmax over all other points, summed by class, in plain torch: all N x N scores are stored."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scores(x: Tensor, sigma: float) -> Tensor:
    """x (N, D) -> (N, N): -|x_i - x_j|^2 / (2 sigma^2). The mean is subtracted first, so that an offset of all points
    costs no digits."""
    q = (x - x.mean(0).detach()) / sigma
    half = q.square().sum(1) / 2
    with torch.autocast(x.device.type, enabled=False):
        return q @ q.t() - half[:, None] - half


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """labels (N) -> (N, K) of zeros and ones."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(like.dtype)


def pairwise_softmax(x: Tensor, labels: Tensor, classes: int, sigma: float, tile: int = 0) -> tuple[Tensor, Tensor]:
    """x (N, D), labels (N) -> shares (N, K) and log_sums (N).

    shares[i, k] is the share of class k in sum_{j != i} exp(score[i, j]); log_sums[i], in float64, is the logarithm of
    that sum.
    """
    diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
    score = scores(x, sigma).masked_fill(diagonal, -math.inf)
    with torch.autocast(x.device.type, enabled=False):
        return score.softmax(1) @ one_hot(labels, classes, x), score.logsumexp(1).double()


def pairwise_softmax_bwd(
    x: Tensor,
    labels: Tensor,
    shares: Tensor,
    log_sums: Tensor,
    grad_shares: Tensor,
    grad_log_sums: Tensor,
    classes: int,
    sigma: float,
    tile: int = 0,
) -> Tensor:
    """The gradient of x (N, D).

    A score has the gradient w[i, j] = p[i, j] (grad_shares[i, y_j] - delta_i), with p the softmax and delta_i = sum_k
    grad_shares[i, k] shares[i, k] - grad_log_sums[i]. Scores are symmetric, so both w[i, j] and w[j, i] pull i to j.
    """
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    share = torch.where(others, scores(x, sigma) - log_sums[:, None], -math.inf).exp().to(x.dtype)
    delta = (grad_shares * shares).sum(1) - grad_log_sums.to(x.dtype)
    w = share * (grad_shares.index_select(1, labels.long()) - delta[:, None])
    pull = w + w.t()
    with torch.autocast(x.device.type, enabled=False):
        return (pull @ x - pull.sum(1)[:, None] * x) / sigma**2
