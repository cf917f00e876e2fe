"""Sums over bins of probabilities, of equal width (no sort) and of equal mass (one sort), closed on the right."""

from __future__ import annotations

import torch
from torch import Tensor

from ._inputs import Samples, blocks, columns

EQUAL = ("width", "mass")


def inner_edges(bins: int, probs: Tensor) -> Tensor:
    """The edges between bins of equal width."""
    return (torch.arange(1, bins, dtype=torch.float64, device=probs.device) / bins).to(probs.dtype)


def _scattered(bin_of: Tensor, size: int, weight: Tensor, probs: Tensor, hit: Tensor) -> Tensor:
    """Sums (3, size) of weight, weight · probability and weight · outcome."""
    values = torch.stack([weight, weight * probs, weight * hit])
    return values.new_zeros(3, size).scatter_add_(1, bin_of.expand(3, -1), values)


def width_sums(given: Samples, bins: int) -> Tensor:
    """Sums (K, 3, bins) over bins of equal width of each of K events. A probability of 0 is in the first bin."""
    probs, labels, weight = given
    inner = inner_edges(bins, probs)
    if probs.ndim == 1:
        return _scattered(torch.bucketize(probs.contiguous(), inner), bins, weight, probs, labels)[None]
    classes = probs.shape[1]
    offset = torch.arange(classes, device=probs.device) * bins
    total = torch.zeros(3, classes * bins, dtype=torch.float64, device=probs.device)
    for rows in blocks(probs):
        part = probs[rows]
        bin_of = (torch.bucketize(part, inner) + offset).flatten()
        hit = torch.zeros_like(part).scatter_(1, labels[rows, None], 1)
        w = weight[rows, None].expand_as(part).flatten()
        total += _scattered(bin_of, classes * bins, w, part.flatten(), hit.flatten())
    return total.view(3, classes, bins).transpose(0, 1).contiguous()


def sorted_columns(probs: Tensor, hit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The probabilities in ascending order, with outcomes and weights; both float64."""
    ordered, order = probs.sort()
    return ordered, hit.index_select(0, order).double(), weight.index_select(0, order)


def _mass_column(probs: Tensor, hit: Tensor, weight: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    ordered, outcome, weight = sorted_columns(probs, hit, weight)
    sums = torch.stack([weight, weight * ordered, weight * outcome]).cumsum(1)
    below = torch.nn.functional.pad(sums, (1, 0))  # below[:, n]: sums over the first n samples
    mass = sums[0]
    cut = torch.arange(1, bins, dtype=torch.float64, device=probs.device) * mass[-1]
    # The slack is for weights whose sums are rounded; it is too small to matter where they are whole numbers.
    last = torch.searchsorted(mass * bins, cut * (1 + 1e-12), right=True)
    # A cut inside a group of equal probabilities moves down to the group's start.
    following = ordered[last.clamp(max=len(ordered) - 1)]
    last = torch.searchsorted(ordered, following).where(last < len(ordered), last)
    ends = torch.cat([last.new_zeros(1), last, last.new_full((1,), len(ordered))])
    edges = torch.nn.functional.pad(ordered, (1, 0))[ends]
    edges[-1] = 1
    return below[:, ends].diff(dim=1), edges


def mass_sums(given: Samples, bins: int) -> tuple[Tensor, Tensor]:
    """Sums (K, 3, bins) over bins of equal mass, and their edges (K, bins + 1). Equal probabilities share a bin."""
    parts = [_mass_column(probs, hit, given.weight, bins) for probs, hit in columns(given)]
    return torch.stack([sums for sums, _ in parts]), torch.stack([edges for _, edges in parts])


def width_edges(given: Tensor, count: int, bins: int) -> Tensor:
    """Edges (count, bins + 1) of bins of equal width, of the dtype and device of a tensor."""
    return torch.nn.functional.pad(torch.nn.functional.pad(inner_edges(bins, given), (1, 0)), (0, 1), value=1.0).repeat(
        count, 1
    )
