"""Maps of log-probabilities to calibrated ones that keep their order: one non-decreasing function for all classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KNOTS = 4096  # of the grid on which a network is evaluated
BLOCK = 1 << 18  # entries of a mixture that are worked on at once: they fit into the cache
REACH = 100.0  # log-probabilities below -REACH share the slope of the last segment


class Temperature(nn.Module):
    """Divides by a temperature: ``log_softmax(|a| x)``. The identity at first."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) log-probabilities -> the same, calibrated."""
        return (self.a.abs() * x).log_softmax(1)


class EnsembleTemperature(nn.Module):
    """A mixture of ``size`` temperatures: ``log sum_k w_k softmax(|a_k| x)``. Starts from random ones."""

    def __init__(self, size: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(size)
        self.a = nn.Parameter(torch.empty(size).uniform_(-bound, bound))
        self.w = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) log-probabilities -> the same, calibrated."""
        rows = max(BLOCK // (len(self.a) * x.shape[1]), 1)
        if rows >= len(x):
            return self.mixture(x)
        # Large mixtures are computed again for the gradient, which saves time and memory.
        parts = [checkpoint(self.mixture, p, use_reentrant=False, preserve_rng_state=False) for p in x.split(rows)]
        return torch.cat(parts)

    def mixture(self, x: Tensor) -> Tensor:
        """The same for a few rows."""
        each = (self.a.abs()[:, None, None] * x).log_softmax(2)
        share = self.w.abs() / self.w.abs().sum()
        return (each + share.log()[:, None, None]).logsumexp(0).log_softmax(1)


class PiecewiseLinear(nn.Module):
    """A continuous function of ``-x`` that is linear on ``size`` segments of [0, 100], with slopes >= 0. The identity
    at first. It is the integral of the slopes; the authors' code is not, and jumps where slopes differ."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) log-probabilities -> the same, calibrated."""
        slopes, width = self.slopes.abs(), REACH / len(self.slopes)
        at_knots = F.pad(slopes.cumsum(0)[:-1] * width, (1, 0))
        segment = (x.detach() / -width).clamp_(0, len(slopes) - 1).long()  # before it is too large for an integer
        mapped = at_knots[segment] + slopes[segment] * (-x - segment * width)
        return (-mapped).log_softmax(1)


class MonotoneNetwork(nn.Module):
    """The integral of a positive network (UMNN) with two layers of ``size`` hidden units, of the normalized x.

    One function serves all log-probabilities, so that the network is evaluated on a fixed grid only. The slope is
    linear between its knots and constant below -100; the integral of that slope is exact and never decreases.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def normalize_(self, x: Tensor) -> None:
        """Takes mean and standard deviation of the log-probabilities of the calibration set."""
        self.mean.copy_(x.mean())
        self.std.copy_(x.std(correction=0).clamp(min=torch.finfo(x.dtype).tiny))

    def slope(self, u: Tensor) -> Tensor:
        """The derivative at u, a positive number."""
        return F.elu(self.net(u[..., None])[..., 0]) + 1

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) log-probabilities -> the same, calibrated."""
        width = REACH / KNOTS
        knots = torch.arange(KNOTS + 1, dtype=x.dtype, device=x.device) * -width
        slopes = self.slope((knots - self.mean) / self.std)
        areas = (slopes[1:] + slopes[:-1]).double() / 2
        at_knots = F.pad(areas.cumsum(0)[:-1], (1, 0)).to(x.dtype)
        depth = x / -width
        segment = depth.detach().clamp(0, KNOTS - 1).long()
        part = depth - segment
        inside = part.clamp(max=1)
        left, right = slopes[segment], slopes[segment + 1]
        area = at_knots[segment] + inside * (left + (right - left) * inside / 2) + right * (part - inside)
        return (area * -width / self.std).log_softmax(1)


MAPPINGS: dict[str, type[nn.Module]] = {
    "ts": Temperature,
    "ensemble_ts": EnsembleTemperature,
    "pwlinear": PiecewiseLinear,
    "umnn": MonotoneNetwork,
}
SIZES = {"ts": 1, "ensemble_ts": 16, "pwlinear": 100, "umnn": 10}  # unless the user names another
CANDIDATES = (
    *(("ensemble_ts", size) for size in (16, 32, 64, 128)),
    *(("pwlinear", size) for size in (1, 10, 100, 500)),
    *(("umnn", size) for size in (2, 10, 20, 50)),
)


def build(kind: str, size: int, seed: int) -> nn.Module:
    """A mapping with the initial parameters of a seed; the global random state is left alone."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MAPPINGS[kind](size)
