"""Variables in groups of states: where each group lies in a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


class Run(NamedTuple):
    """Neighboring groups of equal size."""

    group: int  # the first of them
    place: int  # of its first state
    many: int
    size: int

    @property
    def places(self) -> slice:
        return slice(self.place, self.place + self.many * self.size)


class Groups:
    """Sizes of groups, and functions that act on each."""

    def __init__(self, op: str, sizes: Sequence[int]) -> None:
        if not isinstance(sizes, (list, tuple)) or not sizes:
            raise TypeError(
                message(op, "sizes", "a list with the number of states of each group", checks.describe(sizes))
            )
        for i, size in enumerate(sizes):
            checks.integer(op, f"sizes[{i}]", size, 1)
        self.sizes, self.runs = tuple(sizes), []
        group = place = 0
        for size, equal in groupby(sizes):
            count = len(list(equal))
            self.runs.append(Run(group, place, count, size))
            group, place = group + count, place + count * size
        self.states = place

    def map(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Applies a function of (..., groups, states) that keeps the shape to x (..., states of all groups)."""
        parts = [function(x[..., run.places].unflatten(-1, (run.many, run.size))).flatten(-2) for run in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def reduce(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Applies a function (..., groups, states) -> (..., groups) to x."""
        return torch.cat([function(x[..., run.places].unflatten(-1, (run.many, run.size))) for run in self.runs], -1)

    def repeat(self, of_groups: Tensor) -> Tensor:
        """(..., groups) -> (..., states): each number once for each state of its group."""
        return torch.cat(
            [of_groups[..., run.group : run.group + run.many].repeat_interleave(run.size, -1) for run in self.runs], -1
        )

    def one_hot(self, states: Tensor, like: Tensor) -> Tensor:
        """States (..., groups) -> one-hot (..., states of all groups)."""
        parts: list[Any] = []
        for run in self.runs:
            some = states[..., run.group : run.group + run.many, None]
            parts.append((some == torch.arange(run.size, device=states.device)).flatten(-2))
        return torch.cat(parts, -1).to(like.dtype)

    def start(self, group: int) -> int:
        """Where a group begins."""
        run = next(run for run in self.runs if run.group <= group < run.group + run.many)
        return run.place + (group - run.group) * run.size
