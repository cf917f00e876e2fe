"""Fingerprints of the net's outputs: two numbers per output, which a repeated call must reproduce."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SAME = (
    "Hint: its attributes, caches and other state must be as in the forward pass, and its random numbers come from "
    "torch or generators that its modules hold, or from Python or NumPy from the first call on; or use grad='autograd'"
)


def tolerance(tensors: Iterable[Tensor], autocast: torch.dtype | None, device: torch.device) -> float:
    """The relative rounding difference allowed between calls with and without a graph, in the coarsest dtype."""
    dtypes = {t.dtype for t in tensors if t.is_floating_point()} | ({autocast} if autocast else set())
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    if device.type == "cuda" and torch.float32 in dtypes:
        eps = max(eps, 2.0**-10)  # TF32, which convolutions use by default
    return float(4 * eps**0.75)


class Outputs:
    """Signed sums and norms of outputs, kept on the device and compared once, at the end of the backward pass.

    Args:
        tolerance: relative tolerance of both numbers.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.first: dict[int, Tensor] = {}
        self.later: list[tuple[int, Tensor]] = []
        self.signs: Tensor | None = None

    def add(self, i: int, k: Tensor, again: bool) -> None:
        """Adds the net's outputs k (G, B, *S) of evaluation i."""
        if again and i not in self.first:
            return
        with torch.no_grad():
            wide = torch.float32 if k.device.type == "mps" else torch.float64
            if self.signs is None:
                order = torch.arange(k.numel(), device=k.device).view(k.shape)
                self.signs = ((order * 40503 >> 7) % 2 * 2 - 1).to(torch.int8)
            size = torch.linalg.vector_norm(k, dtype=wide)
            found = torch.stack([(k * self.signs).sum(dtype=wide), size])
        if again:
            self.later.append((i, found))
        else:
            self.first.setdefault(i, found)

    def differ(self) -> bool:
        """Whether a repeated output differs from the first one; forgets the repeated ones."""
        if not self.later:
            return False
        first = torch.stack([self.first[i] for i, _ in self.later])
        later = torch.stack([found for _, found in self.later])
        self.later.clear()
        return not bool(((first - later).abs() <= self.tolerance * first[:, 1:]).all())
