"""Random numbers and autocast as a call found them, so that calling again finds them too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..._core.registry import uncompiled
from .._random import Source, equal, sources


class Surroundings:
    """Autocast as it was when the run began, and the random numbers that each evaluation drew.

    Args:
        model: the net and what holds it.
        device: of the run.
    """

    @uncompiled
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        self.autocast = torch.is_autocast_enabled(device.type)
        self.dtype = torch.get_autocast_dtype(device.type)
        self.sources = sources(model, device)
        self.states: dict[int, list[Any]] = {}  # before evaluation i; neighbors share what is equal
        self.last: list[Any] = []
        self.moved = False  # whether any source moved during the run
        self.unwatched: list[tuple[Source, Any]] = []  # and their states after the first evaluation
        self.late: list[str] = []  # names of those that moved nevertheless

    @uncompiled
    def now(self) -> list[Any]:
        """The state of every source; the last object where it has not moved."""
        found = [source.get() for source in self.sources]
        if self.last:
            found = [old if equal(old, new) else new for old, new in zip(self.last, found, strict=True)]
        self.last = found
        return found

    @uncompiled
    def restore(self, states: list[Any]) -> None:
        """Every source goes on from its state."""
        for source, state in zip(self.sources, states, strict=True):
            source.set(state)

    @contextlib.contextmanager
    def cast(self) -> Iterator[None]:
        """Casts of weights are not kept: one made without a graph must not serve one with it."""
        if not self.autocast:
            yield
            return
        with torch.autocast(self.device.type, self.dtype, cache_enabled=False):
            yield

    @contextlib.contextmanager
    def recording(self, i: int) -> Iterator[None]:
        """Around evaluation i of the forward pass; a second time, it draws what it drew at first."""
        before, self.states[i] = self.last, self.now()
        self.moved |= bool(before) and any(a is not b for a, b in zip(before, self.last, strict=True))
        yield
        if i == 0:
            self.look()

    @uncompiled
    def look(self) -> None:
        """After the first evaluation: what it did not draw from is slow to watch, and no longer watched."""
        before, after = self.states[0], self.now()
        moved = [a is not b for a, b in zip(before, after, strict=True)]
        self.moved = any(moved)
        kept = [j for j, source in enumerate(self.sources) if moved[j] or not source.slow]
        self.unwatched = [(source, after[j]) for j, source in enumerate(self.sources) if j not in kept]
        self.sources = [self.sources[j] for j in kept]
        self.states[0], self.last = [before[j] for j in kept], [after[j] for j in kept]

    @uncompiled
    def finish(self) -> None:
        """After the last evaluation."""
        before = self.last
        self.moved |= any(a is not b for a, b in zip(before, self.now(), strict=True))
        self.late = [source.name for source, state in self.unwatched if not equal(source.get(), state)]
        self.unwatched.clear()

    def suspects(self) -> str:
        """What outputs may differ by: numbers that were drawn in later calls alone, and are not drawn again."""
        names = " and ".join(self.late)
        return f"; {names} numbers were drawn after its first call, and none in that" if names else ""

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Around a backward pass, after which every source goes on from where it was."""
        if not self.moved:
            yield
            return
        outside = [source.get() for source in self.sources]
        try:
            yield
        finally:
            self.restore(outside)

    def replay(self, i: int) -> None:
        """Before evaluation i of the backward pass."""
        if self.moved and i in self.states:
            self.restore(self.states[i])
