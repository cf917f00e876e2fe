"""Codes bytes with an adaptive model: the ops, their kernel calls, and ``adaptive_encode`` and ``adaptive_decode``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.formats.streams import packed
from ..reference import adaptive_code as reference
from ._coding import check_streams, coding_op

__all__ = ["adaptive_decode", "adaptive_encode"]

MOST_ORDER = 7


def _sizes(data: Tensor, each: int) -> tuple[int, int]:
    """Number of chunks, and the largest number of bytes in one."""
    each = max(min(each, len(data)), 1)
    return -(-len(data) // each), reference.capacity(each)


def _encode_fake(data: Tensor, each: int, order: int) -> tuple[Tensor, Tensor]:
    return data.new_empty(_sizes(data, each)), data.new_empty(_sizes(data, each)[0], dtype=torch.int64)


def _encode(run: Backend, data: Tensor, each: int, order: int) -> tuple[Tensor, Tensor]:
    chunks, room = _sizes(data, each)
    payload, sizes = data.new_zeros((chunks, room)), data.new_zeros(chunks, dtype=torch.int64)
    run.launch("adaptive_encode", data.contiguous(), payload, sizes, len(data), min(each, len(data)), order, room)
    return payload, sizes


def _decode_fake(payload: Tensor, offsets: Tensor, starts: Tensor, order: int, n: int) -> tuple[Tensor, Tensor]:
    return payload.new_empty(n), payload.new_empty(len(starts) - 1, dtype=torch.int64)


def _decode(
    run: Backend, payload: Tensor, offsets: Tensor, starts: Tensor, order: int, n: int
) -> tuple[Tensor, Tensor]:
    chunks = len(starts) - 1
    data, damage = payload.new_zeros(n), payload.new_zeros(chunks, dtype=torch.int64)
    if chunks:
        streams = [t.contiguous() for t in (payload, offsets, starts)]
        run.launch("adaptive_decode", *streams, data, damage, chunks, order)
    return data, damage


def _encode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: several chunks of order 1, the last one smaller; one chunk of order 2."""
    data = (torch.arange(23, device=device) % 5).to(torch.uint8)
    return [(data, 10, 1), (data[:3], 5, 2)]


def _decode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: encoded streams."""
    data = (torch.arange(23, device=device) % 5).to(torch.uint8)
    joined, offsets = packed(*reference.adaptive_encode(data, 10, 1))
    return [(joined, offsets, torch.tensor([0, 10, 20, 23], device=device), 1, 23)]


ENCODE = coding_op(
    "(Tensor data, int each, int order) -> (Tensor, Tensor)",
    reference.adaptive_encode,
    _encode,
    _encode_fake,
    _encode_examples,
    family="adaptive_code",
    dtypes=(torch.uint8,),
)
DECODE = coding_op(
    "(Tensor payload, Tensor offsets, Tensor starts, int order, int n) -> (Tensor, Tensor)",
    reference.adaptive_decode,
    _decode,
    _decode_fake,
    _decode_examples,
    family="adaptive_code",
    dtypes=(torch.uint8,),
)


def _check(op: str, name: str, data: object, order: object) -> None:
    if not isinstance(data, Tensor) or data.dtype is not torch.uint8:
        raise TypeError(message(op, name, "a uint8 tensor", checks.describe(data)))
    if data.dim() != 1:
        raise ValueError(message(op, name, "shape (N,)", f"shape {tuple(data.shape)}"))
    checks.integer(op, "order", order, 0, MOST_ORDER)


def adaptive_encode(data: Tensor, each: int, order: int) -> tuple[Tensor, Tensor]:
    """Encodes bytes with a model that learns from the preceding bytes. Every ``each`` bytes make one stream.

    Args:
        data: (N,) uint8, bytes to encode.
        each: number of bytes in a chunk. Every chunk starts to learn anew.
        order: number of preceding bytes that a byte's distribution depends on, 0 to 7. From 2 on, contexts share memory
            through a hash.

    Returns:
        Streams (chunks, capacity) uint8, padded with zeros, and their lengths (chunks,) int64.

    Raises:
        TypeError: ``data`` is not uint8, or a number is not a whole number.
        ValueError: a shape or number is out of range.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Krichevsky and Trofimov, "The Performance of Universal Encoding", IEEE Trans. Inf. Theory 27, 1981.

    Example:
        >>> import torch, probkernels as pk
        >>> data = torch.tensor(list(b"abracadabra" * 50), dtype=torch.uint8)
        >>> payload, sizes = pk.ops.adaptive_encode(data, each=len(data), order=2)
        >>> int(sizes[0]) < len(data) // 6
        True
    """
    _check("adaptive_encode", "data", data, order)
    checks.integer("adaptive_encode", "each", each)
    return ENCODE.call(data, each, order)


def adaptive_decode(payload: Tensor, offsets: Tensor, starts: Tensor, order: int, n: int) -> tuple[Tensor, Tensor]:
    """Decodes the output of :func:`adaptive_encode`. No stream can cause a read or write out of bounds.

    Args:
        payload: (B,) uint8, all streams, one after another.
        offsets: (chunks + 1,) int64: stream c is ``payload[offsets[c] : offsets[c + 1]]``.
        starts: (chunks + 1,) int64, rising from 0 to ``n``: stream c holds the bytes
            from ``starts[c]`` to ``starts[c + 1]``.
        order: the ``order`` given to :func:`adaptive_encode`.
        n: number of decoded bytes in all streams.

    Returns:
        Bytes (n,) uint8, and the damage of each stream, (chunks,) int64: 0 none, 2 not made by the encoder, 3 bytes
        left over.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or number is out of range.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Krichevsky and Trofimov, "The Performance of Universal Encoding", IEEE Trans. Inf. Theory 27, 1981.

    Example:
        >>> import torch, probkernels as pk
        >>> data = torch.tensor(list(b"abracadabra"), dtype=torch.uint8)
        >>> payload, sizes = pk.ops.adaptive_encode(data, each=11, order=1)
        >>> offsets, starts = torch.tensor([0, int(sizes[0])]), torch.tensor([0, 11])
        >>> bytes(pk.ops.adaptive_decode(payload[0], offsets, starts, order=1, n=11)[0].tolist())
        b'abracadabra'
    """
    _check("adaptive_decode", "payload", payload, order)
    check_streams("adaptive_decode", payload, offsets, starts, n)
    return DECODE.call(payload, offsets, starts, order, n)
