"""What every kind of input becomes: items that are read a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Source:
    """Items that can be read a block at a time, and what must be noted down to write them back."""

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[int], Iterator[np.ndarray]]  # items at a time -> arrays (n, *shape)
    whole: Callable[[], np.ndarray]  # all items, perhaps mapped
    note: dict[str, Any] = field(default_factory=dict)
    model_note: dict[str, Any] = field(default_factory=dict)  # what a model of them must know
    files: list[Path] = field(default_factory=list)  # that they were read from

    @property
    def bytes(self) -> int:
        """Of all items, not compressed."""
        return self.count * math.prod(self.shape) * self.dtype.itemsize

    @property
    def disk_bytes(self) -> int:
        """Of the files as they are on disk: what a smaller file must be compared with."""
        return sum(path.stat().st_size for path in self.files) if self.files else self.bytes


def of_array(array: np.ndarray, note: dict[str, Any] | None = None, files: list[Path] | None = None) -> Source:
    """The items along an array's first axis.

    Raises:
        ValueError: an array without one.
    """
    if array.ndim == 0:
        raise ValueError("expected an array with an axis of items, got a single value")

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), size):
            yield np.asarray(array[start : start + size])

    return Source(len(array), array.shape[1:], array.dtype, blocks, lambda: array, note or {}, files=files or [])
