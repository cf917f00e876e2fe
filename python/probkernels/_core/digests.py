"""Digests of data, so that a checkpoint detects other data, and digests of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Buffer = bytes | memoryview
BYTES = 2**24  # hashed at a time: a bound on the memory that data on another device take here
POINTS = 64  # at which a schedule is looked at


def of_bytes(*parts: Buffer, size: int = 16) -> bytes:
    """BLAKE2b digest of ``size`` bytes over all parts, one after another. Detects damage and changes."""
    found = hashlib.blake2b(digest_size=size)
    for part in parts:
        found.update(part)
    return found.digest()


def identity(*parts: Buffer) -> bytes:
    """SHA-256 over all parts, one after another. Identifies a model; nobody can build another model with the same
    digest."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()


def raw(t: Tensor) -> memoryview:
    """The bytes of a tensor on any device."""
    flat = t.detach().cpu().contiguous().reshape(-1)
    # one entry may have a stride of 0, which torch takes for contiguous but does not view as bytes
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data


def of_data(*data: object) -> str:
    """A digest of the dtypes, shapes and values of tensors on any device. Also takes None and tuples."""
    found = hashlib.blake2b(digest_size=16)
    for value in data:
        _add(found, value)
    return found.hexdigest()


def _add(found: hashlib.blake2b, value: object) -> None:
    if isinstance(value, tuple):
        found.update(f"tuple {len(value)}".encode())
        for part in value:
            _add(found, part)
        return
    if not isinstance(value, Tensor):
        found.update(repr(value).encode())
        return
    found.update(f"{value.dtype} {tuple(value.shape)}".encode())
    if not value.numel():
        return
    rows = value.detach().reshape(len(value), -1) if value.dim() else value.detach().reshape(1, 1)
    step = max(1, BYTES // max(1, rows.shape[1] * rows.element_size()))
    for part in rows.split(step):
        found.update(raw(part))


def of_schedule(schedule: Callable[[float], float]) -> str:
    """A digest of the values of a schedule, a function of the fraction of training done. Schedules with equal values
    have equal digests."""
    return of_data(torch.tensor([float(schedule(i / POINTS)) for i in range(POINTS + 1)], dtype=torch.float64))
