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
        guidance: w in u + w (c - u), which amplifies rounding.
    """

    def __init__(self, tolerance: float, guidance: float | Tensor | None) -> None:
        self.tolerance = tolerance
        self.gain = 1 if guidance is None else 1 + 2 * torch.as_tensor(guidance).detach().abs().max()
        self.first: dict[int, Tensor] = {}
        self.later: list[tuple[int, Tensor]] = []
        self.signs: Tensor | None = None

    def add(self, i: int, k: Tensor, u: Tensor, slope: float, again: bool) -> None:
        """Adds output k (B, *S) of evaluation i. k contains slope * u, whose rounding counts too."""
        if again and i not in self.first:
            return
        with torch.no_grad():
            wide = torch.float32 if k.device.type == "mps" else torch.float64
            if self.signs is None:
                order = torch.arange(k.numel(), device=k.device).view(k.shape)
                self.signs = ((order * 40503 >> 7) % 2 * 2 - 1).to(torch.int8)
            size = torch.linalg.vector_norm(k, dtype=wide)
            numbers = [(k * self.signs).sum(dtype=wide), size]
            if not again:
                numbers.append(
                    torch.linalg.vector_norm(u, dtype=wide) * abs(slope) if slope else torch.zeros_like(size)
                )
            found = torch.stack(numbers)
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
        gap = (first[:, :2] - later).abs()
        scale = self.gain * first[:, 1:2] + first[:, 2:]
        return not bool((gap <= self.tolerance * scale).all())
