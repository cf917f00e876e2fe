"""Maps of log-probabilities to calibrated ones that keep their order: one non-decreasing function for all classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

NODES = 51  # of Clenshaw-Curtis quadrature
BLOCK = 1 << 23  # entries of a layer's activations that are kept at once
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
    """The integral of a positive network (UMNN) with two layers of ``size`` hidden units, of the normalized x."""

    mean: Tensor
    std: Tensor
    nodes: Tensor
    weights: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.net = nn.Sequential(nn.Linear(1, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        nodes, weights = clenshaw_curtis(NODES)
        self.register_buffer("nodes", nodes.float(), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def normalize_(self, x: Tensor) -> None:
        """Takes mean and standard deviation of the log-probabilities of the calibration set."""
        self.mean.copy_(x.mean())
        self.std.copy_(x.std(correction=0).clamp(min=torch.finfo(x.dtype).tiny))

    def slope(self, u: Tensor) -> Tensor:
        """The derivative at u, a positive number."""
        return F.elu(self.net(u[..., None])[..., 0]) + 1

    def part(self, u: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
        """The part of the mean slope between 0 and u that some nodes of the quadrature give."""
        return self.slope(u[..., None] * nodes) @ weights

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) log-probabilities -> the same, calibrated."""
        u = (x - self.mean) / self.std
        total = torch.zeros_like(u)
        step = max(BLOCK // max(u.numel() * self.size, 1), 1)
        for nodes, weights in zip(self.nodes.split(step), self.weights.split(step), strict=True):
            if step >= NODES:
                total = self.part(u, nodes, weights)
            else:  # large activations are computed again for the gradient
                total = total + checkpoint(self.part, u, nodes, weights, use_reentrant=False, preserve_rng_state=False)
        return (u * total).log_softmax(1)


def clenshaw_curtis(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (count,) of Clenshaw-Curtis quadrature on [0, 1], float64; exact for polynomials of degree
    ``count - 1``. The number of nodes is odd."""
    last = count - 1
    angle = math.pi * torch.arange(count, dtype=torch.float64) / last
    k = torch.arange(1, last // 2 + 1, dtype=torch.float64)
    factor = torch.where(k == last // 2, 1.0, 2.0) / (4 * k.square() - 1)
    weights = (1 - (factor * (2 * angle[:, None] * k).cos()).sum(1)) / last  # half the weights on [-1, 1]
    weights[0], weights[-1] = weights[0] / 2, weights[-1] / 2
    return (1 - angle.cos()) / 2, weights


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
