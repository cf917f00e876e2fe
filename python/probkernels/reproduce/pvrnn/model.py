"""Symbols of the probabilistic finite state machine, and what is asked of sequences of symbols."""

from __future__ import annotations

import torch
from torch import Tensor

P = 0.3  # rate of 1 at the random symbol


def symbols(rows: int, steps: int, generator: torch.Generator, phase: Tensor | None = None) -> Tensor:
    """(rows, steps) integers: 1, 0, a coin, and again; ``phase`` (rows,) is the place in the cycle of the first."""
    place = torch.arange(steps) + (torch.zeros(rows, dtype=torch.long) if phase is None else phase)[:, None]
    coin = (torch.rand(rows, steps, generator=generator) < P).long()
    return torch.where(place % 3 == 2, coin, (place % 3 == 0).long())


def one_hot(values: Tensor) -> Tensor:
    """Symbols (rows, steps) as codes (rows, steps, 1, 2)."""
    return torch.nn.functional.one_hot(values, 2).float()[:, :, None]


def grammar(values: Tensor) -> tuple[float, float]:
    """Share of cycles with both fixed symbols right, and the rate of 1 at the random one; each row in its best phase.

    values: (rows, steps) of whole cycles.
    """
    right, ones = [], []
    for row in values:
        of_phase = []
        for phase in range(3):
            cycles = row.roll(-phase)[: len(row) - 3].view(-1, 3)
            good = (cycles[:, 0] == 1) & (cycles[:, 1] == 0)
            of_phase.append((float(good.double().mean()), float(cycles[:, 2].double().mean())))
        best = max(of_phase, key=lambda pair: pair[0])
        right.append(best[0])
        ones.append(best[1])
    return sum(right) / len(right), sum(ones) / len(ones)


def varied(runs: Tensor) -> float:
    """Share of symbols in which two runs (runs, ...) from one start differ, over all pairs."""
    n = len(runs)
    ones = runs.double().sum(0)
    return float((2 * ones * (n - ones)).mean()) / (n * (n - 1))
