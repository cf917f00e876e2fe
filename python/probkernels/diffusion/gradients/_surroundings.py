"""Records random states and autocast at each call of the net, and restores them for the repeated call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..._core.registry import uncompiled
from .._random import Source, equal, sources


class Surroundings:
    """The autocast setting at the start of the run, and the random states before each evaluation.

    Args:
        model: the denoiser.
        device: device of the run.
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
        """The state of every source. A state that has not changed is the last object itself."""
        found = [source.get() for source in self.sources]
        if self.last:
            found = [old if equal(old, new) else new for old, new in zip(self.last, found, strict=True)]
        self.last = found
        return found

    @uncompiled
    def restore(self, states: list[Any]) -> None:
        """Sets the state of every source."""
        for source, state in zip(self.sources, states, strict=True):
            source.set(state)

    @contextlib.contextmanager
    def cast(self) -> Iterator[None]:
        """Enters autocast without its weight cache: a cast made without a graph must not be used with one."""
        if not self.autocast:
            yield
            return
        with torch.autocast(self.device.type, self.dtype, cache_enabled=False):
            yield

    @contextlib.contextmanager
    def recording(self, i: int) -> Iterator[None]:
        """Records the random states before evaluation i of the forward pass."""
        before, self.states[i] = self.last, self.now()
        self.moved |= bool(before) and any(a is not b for a, b in zip(before, self.last, strict=True))
        yield
        if i == 0:
            self.look()

    @uncompiled
    def look(self) -> None:
        """After the first evaluation: stops watching slow sources that it did not draw from."""
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
        """Text that names sources drawn from in later calls only, a possible reason why outputs differ."""
        names = " and ".join(self.late)
        return f"; {names} numbers were drawn after its first call, and none in that" if names else ""

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Wraps a backward pass; afterwards every source continues from its state before it."""
        if not self.moved:
            yield
            return
        outside = [source.get() for source in self.sources]
        try:
            yield
        finally:
            self.restore(outside)

    def replay(self, i: int) -> None:
        """Restores the random states before evaluation i of the backward pass."""
        if self.moved and i in self.states:
            self.restore(self.states[i])
