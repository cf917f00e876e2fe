"""Random numbers and autocast as a call found them, so that calling again finds them too."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..._core.registry import uncompiled


class Source(NamedTuple):
    """Something that random numbers come from; its state compares and can be set again."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    slow: bool = False  # tens of microseconds a look


def sources(model: nn.Module, device: torch.device) -> list[Source]:
    """Those of torch, Python and NumPy, and every generator that a module of ``model`` holds."""
    devices = {t.device for t in (*model.parameters(), *model.buffers())} | {device}
    found = [Source(torch.get_rng_state, torch.set_rng_state), Source(random.getstate, random.setstate, slow=True)]
    found.append(Source(lambda: _numpy(np.random.get_state(legacy=False)), _set_numpy, slow=True))
    for d in sorted(map(str, devices)):
        if torch.device(d).type in ("cuda", "xpu"):
            of_device = torch.get_device_module(d)
            found.append(Source(partial(of_device.get_rng_state, d), partial(of_device.set_rng_state, device=d)))
    return found + [source for module in model.modules() for source in _held(vars(module), 2)]


def _held(value: Any, depth: int) -> Iterator[Source]:
    if isinstance(value, torch.Generator):
        yield Source(value.get_state, value.set_state)
    elif isinstance(value, random.Random):
        yield Source(value.getstate, value.setstate)
    elif isinstance(value, np.random.RandomState):
        yield Source(lambda: _numpy(value.get_state(legacy=False)), lambda s: value.set_state(pickle.loads(s)))
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator
        yield Source(lambda: _numpy(bits.state), lambda s: setattr(bits, "state", pickle.loads(s)))
    elif depth and isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held(item, depth - 1)


def _numpy(state: Any) -> bytes:
    """Comparable, where dicts of arrays are not."""
    return pickle.dumps(state)


def _set_numpy(state: bytes) -> None:
    np.random.set_state(pickle.loads(state))


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


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
        self.drew = False  # whether the first evaluation drew random numbers
        self.moved = False  # whether any source moved during the run

    @uncompiled
    def now(self) -> list[Any]:
        """The state of every source; the last object where it has not moved."""
        found = [source.get() for source in self.sources]
        if self.last:
            found = [old if _equal(old, new) else new for old, new in zip(self.last, found, strict=True)]
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
        self.drew = self.moved = any(moved)
        kept = [j for j, source in enumerate(self.sources) if moved[j] or not source.slow]
        self.sources = [self.sources[j] for j in kept]
        self.states[0], self.last = [before[j] for j in kept], [after[j] for j in kept]

    @uncompiled
    def finish(self) -> None:
        """After the last evaluation."""
        before = self.last
        self.moved |= any(a is not b for a, b in zip(before, self.now(), strict=True))

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
