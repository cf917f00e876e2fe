"""A PV-RNN over whole sequences in plain torch, step by step; and its backward pass, which computes the statistics of
each step again from the states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Heads(NamedTuple):
    """Means and log sigmas of a step, (S, Z) each, and which pre-activations of log sigmas lie within the clamp."""

    prior_mean: Tensor
    prior_log_sigma: Tensor
    mean: Tensor
    log_sigma: Tensor
    prior_free: Tensor
    free: Tensor


def _clamped(pre: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return pre.clamp(low, high), (pre >= low) & (pre <= high)


def _heads(pre: Tensor, adapt: Tensor | None, normal: bool, low: float, high: float) -> Heads:
    """pre (S, 4 Z). Without ``adapt`` the posterior is the prior; ``normal`` says whether that is N(0, I)."""
    prior_mean, prior_pre, mean, log_pre = pre.chunk(4, 1)
    prior_mean, (prior_log, prior_free) = prior_mean.tanh(), _clamped(prior_pre, low, high)
    if normal:
        prior_mean, prior_log = torch.zeros_like(prior_mean), torch.zeros_like(prior_log)
    if adapt is None:
        return Heads(prior_mean, prior_log, prior_mean, prior_log, prior_free, prior_free)
    to_mean, to_log = adapt.chunk(2, 1)
    log_sigma, free = _clamped(log_pre + to_log, low, high)
    return Heads(prior_mean, prior_log, (mean + to_mean).tanh(), log_sigma, prior_free, free)


def _kl(s: Heads) -> Tensor:
    far = (s.prior_mean - s.mean) / s.prior_log_sigma.exp()
    return s.prior_log_sigma - s.log_sigma + (far.square() + (2 * (s.log_sigma - s.prior_log_sigma)).exp()) / 2 - 0.5


def _at(adapt: Tensor | None, t: int) -> Tensor | None:
    return None if adapt is None or t >= adapt.shape[1] else adapt[:, t]


def pvrnn_scan(
    h0: Tensor,
    noise: Tensor,
    weight: Tensor,
    bias: Tensor,
    z_weight: Tensor,
    leak: Tensor,
    adapt: Tensor | None,
    lengths: Tensor | None,
    start: bool,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h0 (S, D), noise (S, T, Z), weight (D + 4 Z, D), bias (D + 4 Z), z_weight (D, Z), leak (D), adapt (S, K, 2 Z),
    lengths (S) -> d (S, T, D), z (S, T, Z), stats (S, T, 4, Z), kl (S, T, Z), last (S, D).

    ``last`` is the potential h after the last step of each sequence. Outputs beyond the length are zero.
    """
    h, outputs = h0, []
    with torch.autocast(h0.device.type, enabled=False):
        for t in range(noise.shape[1]):
            pre = h.tanh() @ weight.t() + bias
            heads = _heads(pre[:, h.shape[1] :], _at(adapt, t), start and t == 0, low, high)
            z = heads.mean + heads.log_sigma.exp() * noise[:, t]
            moved = h + leak * (pre[:, : h.shape[1]] + z @ z_weight.t() - h)
            made: tuple[Tensor, ...] = (moved.tanh(), z, torch.stack(heads[:4], 1), _kl(heads))
            if lengths is None:
                h = moved
            else:
                alive = lengths > t
                h = torch.where(alive[:, None], moved, h)
                made = tuple(torch.where(alive.view(-1, *[1] * (m.dim() - 1)), m, 0) for m in made)
            outputs.append(made)
    d, z, stats, kl = (torch.stack(column, 1) for column in zip(*outputs, strict=True))
    return d, z, stats, kl, h


def _into_heads(s: Heads, z: Tensor, kl: Tensor, stats: Tensor, noise: Tensor, adapted: bool, normal: bool) -> Tensor:
    """Cotangents of the pre-activations of a step, (S, 4 Z), from those of z, KL and statistics."""
    variance = (-2 * s.prior_log_sigma).exp()
    pull = (s.prior_mean - s.mean) * variance
    ratio = (2 * (s.log_sigma - s.prior_log_sigma)).exp()
    prior_mean, prior_log, mean, log_sigma = stats.unbind(1)
    prior_mean = prior_mean + kl * pull
    prior_log = prior_log + kl * (1 - (s.prior_mean - s.mean) * pull - ratio)
    mean = mean + z - kl * pull
    log_sigma = log_sigma + kl * (ratio - 1) + z * noise * s.log_sigma.exp()
    if not adapted:
        prior_mean, prior_log = prior_mean + mean, prior_log + log_sigma
        mean = log_sigma = torch.zeros_like(mean)
    if normal:
        prior_mean = prior_log = torch.zeros_like(mean)
    return torch.cat(
        [
            prior_mean * (1 - s.prior_mean.square()),
            prior_log * s.prior_free,
            mean * (1 - s.mean.square()),
            log_sigma * s.free,
        ],
        1,
    )


def pvrnn_scan_bwd(
    h0: Tensor,
    noise: Tensor,
    weight: Tensor,
    bias: Tensor,
    z_weight: Tensor,
    leak: Tensor,
    adapt: Tensor | None,
    lengths: Tensor | None,
    d: Tensor,
    grad_d: Tensor,
    grad_z: Tensor,
    grad_stats: Tensor,
    grad_kl: Tensor,
    grad_last: Tensor,
    start: bool,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of all pre-activations (S, T, D + 4 Z), of h0 (S, D) and of noise (S, T, Z)."""
    size, first = h0.shape[1], h0.tanh()
    into_h, into_d = grad_last, torch.zeros_like(h0)
    pres, noises = [], []
    with torch.autocast(h0.device.type, enabled=False):
        for t in reversed(range(noise.shape[1])):
            before = d[:, t - 1] if t else first
            adapted, normal = _at(adapt, t), start and t == 0
            alive = torch.ones_like(h0[:, :1]) if lengths is None else (lengths > t)[:, None].to(h0.dtype)
            s = _heads(before @ weight[size:].t() + bias[size:], adapted, normal, low, high)
            into_h = into_h + alive * (into_d + grad_d[:, t]) * (1 - d[:, t].square())
            recurrent = alive * leak * into_h
            z = recurrent @ z_weight + alive * grad_z[:, t]
            kl, stats = alive * grad_kl[:, t], alive[:, None] * grad_stats[:, t]
            heads = _into_heads(s, z, kl, stats, noise[:, t], adapted is not None, normal)
            pre = torch.cat([recurrent, heads], 1)
            pres.append(pre)
            noises.append(z * s.log_sigma.exp())
            into_d = alive * (pre @ weight) + (1 - alive) * into_d
            into_h = into_h - recurrent
    into_h0 = into_h + into_d * (1 - first.square())
    return torch.stack(pres[::-1], 1), into_h0, torch.stack(noises[::-1], 1)
