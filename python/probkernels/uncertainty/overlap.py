"""Overlap index: the area that the estimated densities of two sets of numbers have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

REACH = 6.0  # widths beyond the outermost number, where a density ends: what is left out is below 1e-8
FAR = 12.0  # widths beyond the range; a number farther away counts as being there, where it adds exp(-72)
POINTS = 16  # grid points of a block
WIDEST = 2.0  # width of a block in kernel widths, so that a kernel width has eight grid points
LARGEST = 500.0  # exponent that float64 holds, with room for sums
LEAST_BLOCKS = 16
CPU_TILE, GPU_TILE = 1 << 17, 1 << 25  # exponentials that are held at once; a CPU's cache holds the smaller number


def _check(name: str, values: object) -> Tensor:
    checks.float_tensor("overlap_index", name, values, checks.AS_TENSOR)
    assert isinstance(values, Tensor)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise ValueError(message("overlap_index", name, "shape (..., S) with S >= 2", f"shape {tuple(values.shape)}"))
    checks.finite("overlap_index", name, values)
    return values


def _widths(values: Tensor, scale: Tensor) -> Tensor:
    """Scott's width of the kernel of each row. Equal numbers get a tiny one, in place of none."""
    found = values.std(1) * values.shape[1] ** -0.2
    return torch.maximum(found, (scale * 1e-9).clamp_min(1e-100))


def _blocks(ratio: Tensor) -> Tensor:
    """Blocks of each grid, for its span in kernel widths: a power of two, so that few numbers occur and that of a
    row does not depend on the others."""
    found = ratio * (ratio / LARGEST).clamp_min(1) / WIDEST
    return torch.exp2(found.clamp_min(LEAST_BLOCKS).log2().ceil()).long()


def _tile(device: torch.device) -> int:
    return CPU_TILE if device.type == "cpu" else GPU_TILE


def _density(values: Tensor, width: Tensor, middle: Tensor, span: Tensor, blocks: int) -> Tensor:
    """Density of each row, (R, blocks, POINTS), on an even grid of ``span`` around ``middle``.

    With x a number, G the middle of a block and G + l a grid point, all in kernel widths around ``middle``,
    exp(-(G + l - x)^2 / 2) = exp(-(G - x)^2 / 2) exp(x l) exp(-G l - l^2 / 2). The first factor has no l and the second
    one no G, so that the sum over x is a matrix product and takes blocks + POINTS exponentials for each x, not one for
    each grid point.
    """
    half = span / (2 * width)
    x = ((values - middle[:, None]) / width[:, None]).clamp(-(half + FAR)[:, None], (half + FAR)[:, None])
    place = (torch.arange(blocks, dtype=x.dtype, device=x.device) + 0.5) / blocks * 2 - 1
    inside = ((torch.arange(POINTS, dtype=x.dtype, device=x.device) + 0.5) / POINTS * 2 - 1) / blocks
    center, offset = half[:, None] * place, half[:, None] * inside
    found = x.new_zeros(len(x), blocks, POINTS)
    for part in x.split(max(_tile(x.device) // (len(x) * (blocks + POINTS)), POINTS), 1):
        near = (center[:, :, None] - part[:, None, :]).square_().mul_(-0.5).exp_()
        found.baddbmm_(near, (part[:, :, None] * offset[:, None, :]).exp_())
    rest = -offset[:, None, :] * (center[:, :, None] + offset[:, None, :] / 2)
    return found.mul_(rest.exp_()) / (math.sqrt(2 * math.pi) * x.shape[1] * width)[:, None, None]


@torch.no_grad()
def overlap_index(first: Tensor, second: Tensor) -> Tensor:
    """Area under the smaller one of two densities, which are estimated from samples: 0 if they are apart, 1 if equal.

    The densities are Gaussian kernel estimates with Scott's width. The integral is a midpoint sum with eight or more
    points a kernel width, where both densities are positive. Rows are computed in tiles, so that memory stays bounded.

    Args:
        first: (..., S) samples, S >= 2.
        second: (..., T) samples. Leading dimensions are broadcast.

    Returns:
        (...) numbers in [0, 1] of the dtype of ``first``, computed in float64, without a gradient.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: fewer than two samples, samples that are not finite, or shapes that do not broadcast.

    Example:
        >>> import torch
        >>> from probkernels.uncertainty import overlap_index
        >>> noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
        >>> overlap_index(noise, torch.stack([noise, noise + 2, noise + 50]))  # Gaussians: 1, 0.317, 0
        tensor([1.0000, 0.3336, 0.0000])
    """
    a, b = _check("first", first), _check("second", second)
    checks.same_device("overlap_index", "second", b, a, "first")
    try:
        lead = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    except RuntimeError:
        wanted = f"leading dimensions that broadcast with {tuple(a.shape[:-1])}"
        raise ValueError(message("overlap_index", "second", wanted, f"shape {tuple(b.shape)}")) from None
    a, b = (part.double().expand(*lead, part.shape[-1]).reshape(-1, part.shape[-1]) for part in (a, b))
    found = a.new_zeros(len(a))
    if len(a):
        _fill(found, a, b)
    return found.clamp_(max=1).view(lead).to(first.dtype)


def _fill(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Writes the overlap of all rows that have one."""
    scale = torch.maximum(a.abs().amax(1), b.abs().amax(1))
    widths = [_widths(part, scale) for part in (a, b)]
    low = torch.maximum(a.amin(1) - REACH * widths[0], b.amin(1) - REACH * widths[1])
    high = torch.minimum(a.amax(1) + REACH * widths[0], b.amax(1) + REACH * widths[1])
    span, middle = (high - low).clamp_min(0), (high + low) / 2
    ratio = span / torch.minimum(*widths)
    level = _blocks(ratio) * (span > 0)  # 0 where nothing overlaps
    for count in level.unique().tolist():
        rows = (level == count).nonzero()[:, 0]
        step = max(_tile(a.device) // (max(a.shape[1], b.shape[1]) * (count + POINTS)), 1)
        for part in rows.split(step) if count else ():
            grid = middle[part], span[part], count
            both = [_density(x[part], width[part], *grid) for x, width in zip((a, b), widths, strict=True)]
            found[part] = torch.minimum(*both).sum((1, 2)) * span[part] / (count * POINTS)
