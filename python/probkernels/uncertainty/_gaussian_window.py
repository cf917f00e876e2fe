"""Sums over a window of ranks, weighted by a Gaussian of the distance: by a power series where samples are dense."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PAIRS = 1 << 15  # samples whose neighbors at one distance are taken at once: they fit into the cache
NARROW = 32  # windows of fewer ranks take fewer exponentials than the series has terms
REACH = 4.0  # largest exponent of the series: it needs 36 terms and loses at most exp(8) units in the last place


def window_sums(scaled: Tensor, own: Tensor, window: int) -> Tensor:
    """Weighted sums over the neighbors of every sample, up to a positive factor that is the same for all rows.

    Args:
        scaled: (N,) ascending float64 positions. The weight of a neighbor is exp(-distance^2).
        own: (R, N) float64 numbers to sum; of one sign, so that sums are as exact as the numbers.
        window: the sample of rank i looks at ranks i - window to i + window - 1.

    Returns:
        (R, N) sums.
    """
    count = len(scaled)
    window = min(window, count)
    if window < NARROW:
        return _by_pairs(scaled, own, window)
    sums, exponents = _by_series(scaled, own, window)
    far = (exponents > REACH).tolist()
    for row in (row for row, is_far in enumerate(far) if is_far and not (row and far[row - 1])):
        end = next((other for other in range(row, len(far)) if not far[other]), len(far))
        first, last = 2 * window * row, min(2 * window * end, count)
        low, high = max(first - window, 0), min(last + window, count)
        sums[:, first:last] = _by_pairs(scaled[low:high], own[:, low:high], window)[:, first - low : last - low]
    return sums


def _by_pairs(scaled: Tensor, own: Tensor, window: int) -> Tensor:
    """One exponential for each pair."""
    sums, zero = own.clone(), scaled.new_zeros(1)
    for start in range(0, len(scaled), PAIRS):
        for distance in range(1, min(window, len(scaled) - 1) + 1):
            end = min(start + PAIRS, len(scaled) - distance)
            if end <= start:
                break
            low, high = slice(start, end), slice(start + distance, end + distance)
            gap = scaled[high] - scaled[low]
            kernel = torch.addcmul(zero, gap, gap, value=-1).exp_()
            sums[:, high].addcmul_(kernel, own[:, low])
            if distance < window:
                sums[:, low].addcmul_(kernel, own[:, high])
    return sums


def _by_series(scaled: Tensor, own: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Sums, and for each row of 2 * window samples the largest exponent. Sums of a row are wrong if it is above REACH.

    With a center c near, a = x_i - c and b = x_j - c: exp(-(a - b)^2) = exp(-a^2) exp(-b^2) sum_p (2 a b)^p / p!, so
    that sums over a window are sums of b^p exp(-b^2), by running sums. The window of a sample is the end of one row of
    sources and the start of the next. Their border is the center, so that all numbers of a running sum have one sign
    and nothing cancels. The factor exp(-a^2) is not small, and a ratio of two sums does not need it.
    """
    count, width = len(scaled), 2 * window
    rows = -(-count // width)
    tail = rows * width - count
    at = F.pad(scaled[None], (0, tail), mode="replicate").view(rows, width)
    places = F.pad(scaled[None], (window, tail + window), mode="replicate").view(rows + 1, width)
    values = F.pad(own, (window, tail + window)).view(len(own), rows + 1, width)
    center = places[1:, :1]
    a, left, right = at - center, places[:-1] - center, places[1:] - center
    exponents = 2 * a.abs().amax(1) * torch.maximum(-left[:, 0], right[:, -1])
    near = exponents <= REACH
    a, left, right = (torch.where(near[:, None], x, 0.0) for x in (a, left, right))
    terms = _terms(float(exponents.where(near, 0.0).amax()))
    before, after = values[:, :-1] * (-left.square()).exp(), values[:, 1:] * (-right.square()).exp()
    sums, power = torch.zeros_like(before), torch.ones_like(a)
    for term in range(terms):
        moments = before.flip(2).cumsum(2).flip(2)
        moments[:, :, 1:] += after.cumsum(2)[:, :, :-1]
        sums.addcmul_(power, moments)
        power = power * a * (2 / (term + 1))
        before, after = before * left, after * right
    return sums.flatten(1)[:, :count], exponents


def _terms(exponent: float) -> int:
    """Terms after which the series of exp(-exponent) is exact to rounding."""
    terms, size = 1, exponent
    while size > 1e-17 * math.exp(-exponent):
        terms += 1
        size *= exponent / terms
    return terms
