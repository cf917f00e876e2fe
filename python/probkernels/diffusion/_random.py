"""Sources of random numbers that a net may draw from: reading and restoring their states."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._core.registry import uncompiled


class Source(NamedTuple):
    """A random number generator: reads its state in comparable form, and restores it."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    slow: bool = False  # tens of microseconds a look
    name: str = ""  # for messages, of slow sources


ATOMS = (int, str, float, bool, type(None))


@uncompiled
def sources(model: nn.Module, device: torch.device) -> list[Source]:
    """The generators of torch, Python and NumPy, and every generator that a module of ``model`` holds."""
    devices = {t.device for t in (*model.parameters(), *model.buffers())} | {device}
    found = [
        Source(torch.get_rng_state, torch.set_rng_state),
        Source(random.getstate, random.setstate, True, "Python's random"),
    ]
    found.append(Source(lambda: _numpy(np.random.get_state(legacy=False)), _set_numpy, True, "NumPy's random"))
    for d in sorted(map(str, devices)):
        if torch.device(d).type in ("cuda", "xpu"):
            of_device = torch.get_device_module(d)
            found.append(Source(partial(of_device.get_rng_state, d), partial(of_device.set_rng_state, device=d)))
    return found + [source for module in model.modules() for source in _held(vars(module), 2)]


def _held(value: Any, depth: int) -> Iterator[Source]:
    if isinstance(value, (dict, list, tuple)):  # quick: it may be a whole vocabulary
        for item in (value.values() if isinstance(value, dict) else value) if depth else ():
            if type(item) not in ATOMS:
                yield from _held(item, depth - 1)
    elif isinstance(value, torch.Generator):
        yield Source(value.get_state, value.set_state)
    elif isinstance(value, random.Random):
        yield Source(value.getstate, value.setstate)
    elif isinstance(value, np.random.RandomState):
        yield Source(lambda: _numpy(value.get_state(legacy=False)), lambda s: value.set_state(pickle.loads(s)))
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator
        yield Source(lambda: _numpy(bits.state), lambda s: setattr(bits, "state", pickle.loads(s)))


def _numpy(state: Any) -> bytes:
    """NumPy's state in comparable form: dicts of arrays do not compare."""
    return pickle.dumps(state)


def _set_numpy(state: bytes) -> None:
    np.random.set_state(pickle.loads(state))


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same."""
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
