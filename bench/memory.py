"""How much memory a call takes on the CPU, counted at torch's allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any]) -> int:
    """The largest sum of tensors that a call holds at once on the CPU, beyond what it was given."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    del result  # only now: what the call returns counts to the end
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]  # there after the block
    held = peak = 0
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
