"""The records of filtered streams and of class-incremental learners, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ..harness.records import of_kind

SEEDS, MEMORIES = (0, 1, 2), (20, 50, 100, 200)
SEQUENTIAL, JOINT = "task by task", "all tasks at once"
FINE_TUNING, REPLAY = "softmax, no memory", "softmax, replay"
REFRESH, MIXED = "ProtoCL, refreshed from the memory", "ProtoCL, refreshed from memory and task"
ACCUMULATE = "ProtoCL, accumulated"
WAYS = (FINE_TUNING, REPLAY, REFRESH, MIXED, ACCUMULATE)
DIGITS, FASHION = "digits", "Fashion-MNIST"

# Of another program with this set-up and other random numbers: accuracy after the last task.
EXPECTED_STREAM = {SEQUENTIAL: [0.50, 0.50, 0.50, 0.54, 0.99], JOINT: [1.0, 0.994, 1.0, 0.994, 0.975]}
EXPECTED_CURRENT = [1.0, 0.99, 0.98, 1.0, 0.99]  # of each task right after it was learned
EXPECTED = {
    (FINE_TUNING, 0): 0.197,
    **{(REPLAY, m): a for m, a in zip(MEMORIES, (0.706, 0.851, 0.924, 0.948), strict=True)},
    **{(REFRESH, m): a for m, a in zip(MEMORIES, (0.598, 0.865, 0.911, 0.947), strict=True)},
    **{(MIXED, m): a for m, a in zip(MEMORIES, (0.523, 0.808, 0.898, 0.945), strict=True)},
    **{(ACCUMULATE, m): a for m, a in zip(MEMORIES, (0.722, 0.833, 0.880, 0.937), strict=True)},
}  # fmt: skip


@dataclass
class Stream:
    """A posterior over a stream of tasks."""

    way: str
    iterations: int  # of HMC for each posterior
    seed: int
    accuracy: list[list[float]]  # after each task: of all tasks so far. All tasks at once: one row
    components: list[int] = field(default_factory=list)  # of the mixture after each task


@dataclass
class Learned:
    """A classifier that saw two classes at a time."""

    data: str
    way: str
    memory: int
    seed: int
    accuracy: list[float]  # after each task, on test images of all classes so far


def stream_of(records: Sequence[Any], way: str) -> list[Stream]:
    """The streams of one way, the longest runs first, in order of the seeds."""
    own = (r for r in of_kind(records, Stream) if r.way == way)
    return sorted(own, key=lambda r: (-r.iterations, r.seed))


def learned_of(records: Sequence[Any], data: str, way: str, memory: int) -> list[Learned]:
    """The classifiers of one kind, in order of the seeds."""
    return [r for r in of_kind(records, Learned) if (r.data, r.way, r.memory) == (data, way, memory)]


def final(records: Sequence[Learned]) -> float:
    """Accuracy after the last task, mean over seeds."""
    return fmean(r.accuracy[-1] for r in records)
