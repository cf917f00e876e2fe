"""Devices of an optimizer's tensors, and the capture of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

Item = TypeVar("Item")


def by_device(items: Iterable[Item], device: Callable[[Item], torch.device]) -> list[list[Item]]:
    """The items in groups of one device, because a launch takes the tensors of one device only."""
    groups: dict[torch.device, list[Item]] = {}
    for item in items:
        groups.setdefault(device(item), []).append(item)
    return list(groups.values())


def capturing() -> bool:
    """Whether the current stream is captured in a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def refuse_capture(op: str, why: str) -> None:
    """Raises RuntimeError, as torch's own optimizers do, while a CUDA graph is captured."""
    if capturing():
        raise RuntimeError(f"{op}: cannot be captured in a CUDA graph: {why}. Hint: call it outside the capture")


def refuse_baked(op: str, numbers: str) -> None:
    """Raises while a CUDA graph is captured, for a call that the numbers of this moment would make stale."""
    refuse_capture(op, f"every replay would repeat the {numbers} of this call")


def refuse_waiting(op: str) -> None:
    """Raises while a CUDA graph is captured, for a call in which the host waits for values of the device."""
    refuse_capture(op, "the host reads values of tensors during the call")
