"""``Source``: the common form of all inputs, items that are read block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Source:
    """Items that can be read block by block, and the note that is needed to write them back."""

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
        """Uncompressed size of all items."""
        return self.count * math.prod(self.shape) * self.dtype.itemsize

    @property
    def disk_bytes(self) -> int:
        """Size of the files on disk, with which a compressed file is compared."""
        return sum(path.stat().st_size for path in self.files) if self.files else self.bytes


def of_array(array: np.ndarray, note: dict[str, Any] | None = None, files: list[Path] | None = None) -> Source:
    """The items along an array's first axis.

    Raises:
        ValueError: the array is 0-d.
    """
    if array.ndim == 0:
        raise ValueError("expected an array with an axis of items, got a single value")

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), size):
            yield np.asarray(array[start : start + size])

    return Source(len(array), array.shape[1:], array.dtype, blocks, lambda: array, note or {}, files=files or [])
