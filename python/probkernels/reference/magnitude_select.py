"""Selects entries by magnitude, in plain torch (Hu et al., "SaRA", ICLR 2025, arXiv:2409.06633).

SaRA trains the entries with |w| < threshold, strictly. For a density instead of a threshold, find the k-th smallest
magnitude. Magnitudes are ordered like their bit patterns, so histograms of 16 bits at a time find it exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.formats.bitmap import pack

BINS = 1 << 16


def levels(dtype: torch.dtype) -> int:
    """Number of 16-bit digits of a magnitude: 4 for float64, 2 for other dtypes, which are cast to float32."""
    return 4 if dtype is torch.float64 else 2


def magnitude_select(w: Tensor, threshold: float, largest: bool) -> tuple[Tensor, Tensor]:
    """The bitmap of |w| < threshold, or |w| > threshold if ``largest``: w (...) -> words, ranks. NaN is never selected.

    The threshold is rounded to w's dtype first, as in torch's comparisons with a number.
    """
    limit = torch.full((), threshold, dtype=w.dtype, device=w.device)
    magnitude = w.detach().abs()
    return pack(magnitude > limit if largest else magnitude < limit)


def magnitude_histogram(w: Tensor, level: int, prefix: int) -> Tensor:
    """Counts each 16-bit digit at ``level`` (0 = highest) of the bits of |w| -> (65536) int64.

    Counts only entries whose higher digits equal ``prefix``. NaN is not counted.
    """
    wide = w.detach().reshape(-1).abs().to(torch.float64 if w.dtype is torch.float64 else torch.float32)
    bits = wide.view(torch.int64) if w.dtype is torch.float64 else wide.view(torch.int32).long()
    shift = 16 * (levels(w.dtype) - 1 - level)
    counts = ~wide.isnan()
    if level > 0:
        counts = counts & (bits >> (shift + 16) == prefix)
    digits = (bits >> shift) & (BINS - 1)
    return torch.zeros(BINS, dtype=torch.int64, device=w.device).scatter_add(0, digits, counts.long())
