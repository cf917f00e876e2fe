"""Timers: the wall clock on the CPU, events with a flushed L2 cache on the GPU. Recycles memory for all providers."""

from __future__ import annotations

import ctypes
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .case import Run

ROUNDS = 20  # visits to each provider; the order is shuffled anew for each round
MIN_SECONDS = 0.2  # measured per provider at least, set-up included
ENOUGH_SECONDS, FEWEST = 5.0, 5  # a provider that took this long is done once it has so many samples
SAMPLE_SECONDS = 0.005  # a sample is the mean of as many calls as fit; long calls are samples of their own


def recycle_memory() -> None:
    """Lets the C allocator keep freed memory, for all providers.

    By default glibc maps each tensor of 32 MiB or more anew at every allocation and unmaps it when freed. The page
    faults at its first use then cost several times more than any kernel here and hide the differences to measure. A
    training loop that reuses its buffers does not pay for them. This does nothing where there is no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def quantile(samples: Sequence[float], q: float) -> float:
    """The q-quantile of the samples, linear between neighbors."""
    ordered = sorted(samples)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switches Python's garbage collector off inside the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class WallTimer:
    """Seconds per call by the wall clock."""

    def sample(self, run: Run, calls: int) -> float:
        """Mean of ``calls`` calls."""
        clock, function, setup = time.perf_counter, run.run, run.setup
        if setup is None:
            start = clock()
            for _ in range(calls):
                function()
            return (clock() - start) / calls
        total = 0.0
        for _ in range(calls):
            prepared = setup()
            start = clock()
            function(prepared)
            total += clock() - start
            del prepared
        return total / calls


class CudaTimer:
    """Seconds per call between two events on the GPU, the L2 cache flushed before each call.

    Host time shows up only where the host is slower than the flush, as it would in a training step. Not yet run on a
    GPU.
    """

    def __init__(self, device: torch.device) -> None:
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(4 * l2, 64 << 20), dtype=torch.uint8, device=device)

    def sample(self, run: Run, calls: int) -> float:
        """Mean of ``calls`` calls."""
        pairs = []
        for _ in range(calls):
            prepared = () if run.setup is None else (run.setup(),)
            self._flush.zero_()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run.run(*prepared)
            stop.record()
            pairs.append((start, stop))
        torch.cuda.synchronize()
        return sum(start.elapsed_time(stop) for start, stop in pairs) / calls / 1e3


Timer = WallTimer | CudaTimer


def make_timer(device: torch.device) -> Timer:
    """The timer for runs on ``device``."""
    return CudaTimer(device) if device.type == "cuda" else WallTimer()


class Plan:
    """The sampling of one run: calls per sample and samples per round, from the cost of one call."""

    def __init__(
        self, run: Run, timer: Timer, context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        self.run, self.timer, self.context = run, timer, context
        with context():
            timer.sample(run, 1)  # the first call pays for caches, allocation and lazy loading
            wall = max(min(self._wall() for _ in range(3)), 1e-8)
        self.calls = max(1, math.ceil(SAMPLE_SECONDS / wall))
        self.per_round = max(1, math.ceil(MIN_SECONDS / ROUNDS / (self.calls * wall)))
        self.warm_up = wall < SAMPLE_SECONDS  # after another provider's turn; a long call warms itself up
        self.samples: list[float] = []
        self.seconds = 0.0

    def _wall(self) -> float:
        start = time.perf_counter()
        self.timer.sample(self.run, 1)
        return time.perf_counter() - start

    def visit(self) -> None:
        """Takes this round's samples."""
        if self.warm_up:
            self.timer.sample(self.run, 1)
        start = time.perf_counter()
        for _ in range(self.per_round):
            self.samples.append(self.timer.sample(self.run, self.calls))
        self.seconds += time.perf_counter() - start

    @property
    def done(self) -> bool:
        """Whether enough has been measured."""
        if self.seconds >= ENOUGH_SECONDS:
            return len(self.samples) >= FEWEST
        return len(self.samples) >= ROUNDS and self.seconds >= MIN_SECONDS


def take_turns(plans: Sequence[Plan]) -> None:
    """Visits every plan that has not measured enough once a round, in an order shuffled anew."""
    order = random.Random(0)
    with no_garbage_collection():
        while waiting := [plan for plan in plans if not plan.done]:
            order.shuffle(waiting)
            for plan in waiting:
                with plan.context():
                    plan.visit()
