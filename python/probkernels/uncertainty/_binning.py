"""Sums over bins of probabilities, of equal width (no sort) and of equal mass (one sort), closed on the right."""

from __future__ import annotations

import torch
from torch import Tensor

from ._inputs import Samples, blocks, columns

EQUAL = ("width", "mass")
MANY = 1 << 17  # samples from which a CPU sorts only those near the edges of bins
CELL_BITS = 16


def inner_edges(bins: int, probs: Tensor) -> Tensor:
    """The edges between bins of equal width."""
    return (torch.arange(1, bins, dtype=torch.float64, device=probs.device) / bins).to(probs.dtype)


def _width_bins(probs: Tensor, bins: int) -> Tensor:
    """The bin of each probability: exactly that of its comparison with the edges, in a few vectorized steps."""
    nearest = (probs * bins).round_()  # the edge nearest / bins is the only one that rounding could confuse
    return (nearest - 1).add_(probs > nearest / bins).clamp_(0, bins - 1).long()


def scattered(bin_of: Tensor, size: int, *values: Tensor) -> Tensor:
    """Sums (len(values), size) of float64 values."""
    return torch.stack([v.new_zeros(size).scatter_add_(0, bin_of, v) for v in values])


def width_sums(given: Samples, bins: int) -> Tensor:
    """Sums (K, 3, bins) over bins of equal width of each of K events. A probability of 0 is in the first bin."""
    probs, labels, weight = given
    if probs.ndim == 1:
        return scattered(_width_bins(probs, bins), bins, weight, weight * probs, weight * labels)[None]
    classes = probs.shape[1]
    size, offset = classes * bins, torch.arange(classes, device=probs.device) * bins
    total = torch.zeros(2, size, dtype=torch.float64, device=probs.device)
    for rows in blocks(probs):
        bin_of = _width_bins(probs[rows], bins).add_(offset).flatten()
        w = weight[rows, None].expand(-1, classes)
        total += scattered(bin_of, size, w.flatten(), (w * probs[rows]).flatten())
    own = _width_bins(probs.gather(1, labels[:, None])[:, 0], bins).add_(labels * bins)  # the event that came true
    sums = torch.cat([total, scattered(own, size, weight)])
    return sums.view(3, classes, bins).transpose(0, 1).contiguous()


def sorted_columns(probs: Tensor, hit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The probabilities in ascending order, with outcomes and weights; both float64."""
    ordered, order = probs.sort()
    return ordered, hit.index_select(0, order).double(), weight.index_select(0, order)


def _items(probs: Tensor, hit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities in ascending order (n,) and sums (3, n) of weight, probability and outcome of each."""
    ordered, outcome, weight = sorted_columns(probs, hit, weight)
    return ordered, torch.stack([weight, weight * ordered, weight * outcome])


def _fewer_items(probs: Tensor, hit: Tensor, weight: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The same with one item for all probabilities of a fine cell in which no bin ends, so that few are sorted."""
    probs = probs + 0.0  # -0 becomes 0
    bits = probs.view(torch.int64 if probs.dtype is torch.float64 else torch.int32)  # in the order of the numbers
    least, most = (int(end) for end in bits.aminmax())
    shift = max((most - least).bit_length() - CELL_BITS, 0)
    cell = ((bits - least) >> shift).long()
    sums = scattered(cell, 1 << CELL_BITS, weight, weight * probs, weight * hit)
    filled = sums[0].nonzero()[:, 0]
    cuts = torch.arange(1, bins, dtype=torch.float64, device=probs.device) * sums[0].sum()
    # The bin ends in this cell, or before it; rounded sums may be off by one cell.
    at = torch.searchsorted(sums[0, filled].cumsum(0) * bins, cuts, right=True)
    near = (at[:, None] + torch.tensor([-1, 0, 1], device=at.device)).clamp(0, len(filled) - 1)
    cut = torch.zeros(1 << CELL_BITS, dtype=torch.bool, device=probs.device)
    cut[filled[near.flatten()]] = True
    one = cut.index_select(0, cell).nonzero()[:, 0]
    ordered, own = _items(probs[one], hit[one], weight[one])
    rest = filled[~cut[filled]]
    starts = ((rest << shift) + least).to(bits.dtype).view(probs.dtype)
    values, order = torch.cat([ordered, starts]).sort()
    return values, torch.cat([own, sums[:, rest]], 1)[:, order]


def _mass_column(probs: Tensor, hit: Tensor, weight: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    few = probs.device.type == "cpu" and len(probs) >= MANY
    ordered, parts = _fewer_items(probs, hit, weight, bins) if few else _items(probs, hit, weight)
    sums = parts.cumsum(1)
    below = torch.nn.functional.pad(sums, (1, 0))  # below[:, n]: sums over the first n items
    mass = sums[0].contiguous()
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
