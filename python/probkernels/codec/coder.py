"""Encodes chunks of rows to streams with a compiled circuit, and decodes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._core import checks, devices
from .._core.errors import CorruptStreamError, message
from ..ops import program_decode, program_encode
from .program import Program

WHY = {1: "ends early", 2: "has a wrong state", 3: "has words left over"}


def encode(program: Program, codes: Tensor, items_per_chunk: int, lanes: int = 16) -> list[bytes]:
    """Encodes rows of data. Every ``items_per_chunk`` rows make one stream; the last stream may hold fewer.

    The bytes are the same for any number of threads, on every processor and device.

    Args:
        program: model of the rows.
        codes: (N, V) uint8 or int32, on any device. Values are 0 .. categories - 1 of their variable.
        items_per_chunk: number of rows in a stream, at least 1.
        lanes: number of rows coded side by side in a stream, each with its own rANS state. 16 is fastest; 1 gives the
            shortest stream for a single row.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or value is out of range.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program, decode, encode
        >>> rows = torch.randint(0, 4, (100, 6), dtype=torch.int32)
        >>> program = Program.from_circuit(hclt(rows, latents=3))
        >>> chunks = encode(program, rows, items_per_chunk=64)
        >>> torch.equal(decode(program, chunks, [64, 36]), rows)
        True
    """
    devices.refuse_waiting("encode")
    if not isinstance(codes, Tensor) or codes.dtype not in (torch.uint8, torch.int32):
        raise TypeError(message("encode", "codes", "a uint8 or int32 tensor", checks.describe(codes)))
    if codes.dim() != 2 or codes.shape[1] != program.variables:
        raise ValueError(message("encode", "codes", f"shape (N, {program.variables})", f"shape {tuple(codes.shape)}"))
    for name, value in (("items_per_chunk", items_per_chunk), ("lanes", lanes)):
        checks.integer("encode", name, value)
    codes = codes.to(torch.int32).contiguous()
    if len(codes) == 0:
        return []
    limits = torch.tensor(program.categories, dtype=torch.int32, device=codes.device)
    wrong = (codes < 0) | (codes >= limits)
    if wrong.any():
        row, variable = wrong.nonzero()[0].tolist()
        got = f"{int(codes[row, variable])} in row {row}, variable {variable}"
        raise ValueError(message("encode", "codes", f"values below {program.categories[variable]}, from 0", got))
    payload, sizes = program_encode(*program.on(codes.device), codes, program.registers, items_per_chunk, lanes)
    flat = payload.cpu().numpy()
    return [flat[i, :size].tobytes() for i, size in enumerate(sizes.tolist())]


def decode(
    program: Program, payloads: Sequence[bytes], items: Sequence[int], lanes: int = 16,
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """Decodes streams that :func:`encode` made, to rows (N, V) int32 in order.

    A damaged stream never causes a read or write out of bounds. Final states and the number of words are checked, which
    detects most damage; the container adds checksums.

    Args:
        program: model that encoded the streams.
        payloads: streams, one for each chunk.
        items: number of rows in each stream, at least 1.
        lanes: the ``lanes`` given to :func:`encode`.
        device: device to decode on.

    Raises:
        ValueError: ``items`` and ``payloads`` differ in length, or an entry of ``items`` is below 1.
        CorruptStreamError: a stream is damaged. The message names it.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program, decode
        >>> program = Program.from_circuit(hclt(torch.randint(0, 4, (100, 6)), latents=3))
        >>> decode(program, [bytes(128)], [16])
        Traceback (most recent call last):
        ...
        probkernels._core.errors.CorruptStreamError: chunk 0: has a wrong state
    """
    codes, damage = decode_each(program, payloads, items, lanes, device)
    for chunk, why in enumerate(damage):
        if why:
            raise CorruptStreamError(f"chunk {chunk}: {why}")
    return codes


def decode_each(
    program: Program, payloads: Sequence[bytes], items: Sequence[int], lanes: int = 16,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, list[str]]:  # fmt: skip
    """Like :func:`decode`, but returns the damage of each stream as a text instead of raising. The text of an intact
    stream is ''.

    Rows of a damaged stream have arbitrary values.

    Raises:
        ValueError: as :func:`decode`.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program, decode_each, encode
        >>> rows = torch.randint(0, 4, (100, 6), dtype=torch.int32)
        >>> program = Program.from_circuit(hclt(rows, latents=3))
        >>> codes, damage = decode_each(program, [*encode(program, rows, 100), bytes(128)], [100, 16])
        >>> torch.equal(codes[:100], rows), damage
        (True, ['', 'has a wrong state'])
    """
    if len(payloads) != len(items) or any(count < 1 for count in items):
        raise ValueError(message("decode", "items", f"{len(payloads)} numbers >= 1", f"{list(items)[:8]}"))
    starts = torch.tensor([0, *np.cumsum(np.array(items, np.int64)).tolist()], device=device)
    if not payloads:
        return torch.empty(0, program.variables, dtype=torch.int32, device=device), []
    ends = np.cumsum(np.array([len(p) for p in payloads], np.int64)).tolist()
    joined = torch.frombuffer(bytearray(b"".join(payloads) + b"\0"), dtype=torch.uint8).to(device)
    offsets = torch.tensor([0, *ends], device=device)
    codes, damage = program_decode(
        *program.on(device), joined, offsets, starts, program.registers, lanes, int(sum(items))
    )
    return codes, [WHY.get(int(d), "") for d in damage.tolist()]
