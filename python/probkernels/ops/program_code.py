"""Codes rows of data with a compiled circuit: the ops, their kernel calls, and the functions ``program_encode`` and
``program_decode``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.formats.streams import packed
from ..reference import program_code as reference
from ._coding import check_streams, coding_op

__all__ = ["program_decode", "program_encode"]


def _sizes(codes: Tensor, each: int, lanes: int) -> tuple[int, int]:
    """Number of chunks, and the largest number of bytes in one."""
    n, v = codes.shape
    each = max(min(each, n), 1)
    return -(-n // each), reference.capacity(each, v, min(lanes, each))


def _encode_fake(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, codes: Tensor, registers: int, each: int,
    lanes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    chunks, room = _sizes(codes, each, lanes)
    return codes.new_empty((chunks, room), dtype=torch.uint8), codes.new_empty(chunks, dtype=torch.int64)


def _encode(
    run: Backend, code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, codes: Tensor, registers: int,
    each: int, lanes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    model = [t.contiguous() for t in (code, weights, tables, variables)]
    chunks, room = _sizes(codes, each, lanes)
    payload, sizes = codes.new_zeros((chunks, room), dtype=torch.uint8), codes.new_zeros(chunks, dtype=torch.int64)
    n, v = codes.shape
    each = min(each, n)
    run.launch(
        "program_encode", *model, codes.contiguous(), payload, sizes, len(code), registers, v, n, each, lanes, room
    )
    return payload, sizes


def _decode_fake(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, payload: Tensor, offsets: Tensor, starts: Tensor,
    registers: int, lanes: int, rows: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    codes = payload.new_empty((rows, len(variables)), dtype=torch.int32)
    return codes, payload.new_empty(len(starts) - 1, dtype=torch.int64)


def _decode(
    run: Backend, code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, payload: Tensor, offsets: Tensor,
    starts: Tensor, registers: int, lanes: int, rows: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    model = [t.contiguous() for t in (code, weights, tables, variables)]
    v, chunks = len(variables), len(starts) - 1
    codes = payload.new_zeros((rows, v), dtype=torch.int32)
    damage = payload.new_zeros(chunks, dtype=torch.int64)
    streams = [t.contiguous() for t in (payload, offsets, starts)]
    if chunks:
        run.launch("program_decode", *model, *streams, codes, damage, len(code), registers, v, chunks, lanes)
    return codes, damage


def _tiny(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two variables below one latent with two states: its prior, then a value of each variable."""
    code = torch.tensor(
        [
            [0, 0, -1, -1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 2, 1, 2, 1, 0],
            [6, -1, 1, -1, 2, 0, 0, 0, 0],
            [7, 3, -1, -1, 2, 0, 0, 0, 0],
            [2, 1, 1, 3, 2, 0, 0, 0, 0],
            [5, 1, -1, -1, 2, 0, 0, 0, 0],
            [6, -1, 1, -1, 2, 1, 0, 0, 0],
        ],
        dtype=torch.int32,
    )
    first = torch.tensor([0, 0, 40000, 9000, 52000, 12000], dtype=torch.int32).to(torch.int16)
    second = torch.tensor([0, 0, 30000, 62000], dtype=torch.int32).to(torch.int16)
    variables = torch.tensor([[0, 3, 2, 0], [6, 2, 2, 0]])
    weights = torch.tensor([0.625, 0.375])
    return code.to(device), weights.to(device), torch.cat([first, second]).to(device), variables.to(device)


def _codes(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor([3.0, 2.0])
    return (torch.rand(9, 2, generator=generator) * limits).to(device, torch.int32)


def _encode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: several chunks, the last one smaller; a single row."""
    model, codes = _tiny(device), _codes(device)
    return [(*model, codes, 5, 4, 2), (*model, codes[:1], 5, 1, 1)]


def _decode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: encoded streams."""
    model, codes = _tiny(device), _codes(device)
    joined, offsets = packed(*reference.program_encode(*model, codes, 5, 4, 2))
    starts = torch.tensor([0, 4, 8, 9], device=device)
    return [(*model, joined, offsets, starts, 5, 2, 9)]


ENCODE = coding_op(
    "(Tensor code, Tensor weights, Tensor tables, Tensor variables, Tensor codes, int registers, int each, int lanes)"
    " -> (Tensor, Tensor)",
    reference.program_encode,
    _encode,
    _encode_fake,
    _encode_examples,
    family="program_code",
    dtypes=(torch.int32,),
)
DECODE = coding_op(
    "(Tensor code, Tensor weights, Tensor tables, Tensor variables, Tensor payload, Tensor offsets, Tensor starts,"
    " int registers, int lanes, int rows) -> (Tensor, Tensor)",
    reference.program_decode,
    _decode,
    _decode_fake,
    _decode_examples,
    family="program_code",
    dtypes=(torch.int32,),
)


def _check_model(op: str, tensors: Sequence[Tensor], like: Tensor, name: str) -> None:
    names = ("code", "weights", "tables", "variables")
    dtypes = (torch.int32, torch.float32, torch.int16, torch.int64)
    for argument, tensor, dtype in zip(names, tensors, dtypes, strict=True):
        if not isinstance(tensor, Tensor) or tensor.dtype is not dtype:
            raise TypeError(message(op, argument, f"a {dtype} tensor", checks.describe(tensor)))
        checks.same_device(op, argument, tensor, like, name)


def program_encode(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, codes: Tensor, registers: int, each: int,
    lanes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Encodes rows of data with a compiled circuit. Prefer :func:`probkernels.codec.encode`, which checks its
    arguments.

    The bytes are the same on every backend, with any number of threads and any instruction set. Not checked: that the
    program is valid, as a :class:`probkernels.codec.Program` is, and that the codes are below their number of
    categories.

    Args:
        code: (R, 9) int32 instructions.
        weights: (E,) float32 weights of all sums.
        tables: (T,) int16. The bits are unsigned counts below a category.
        variables: (V, 4) int64. For each variable: offset of its table, categories, units, and a likely value.
        codes: (N, V) int32 rows of data.
        registers: number of floats of working memory for a row.
        each: number of rows in a chunk.
        lanes: number of rows coded side by side in a chunk's stream.

    Returns:
        Streams (chunks, most bytes of one) uint8, and the number of bytes used in each, (chunks,) int64.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or range is wrong.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program
        >>> rows = torch.randint(0, 4, (100, 6), dtype=torch.int32)
        >>> program = Program.from_circuit(hclt(rows, latents=3))
        >>> payload, sizes = pk.ops.program_encode(*program.tensors, rows, program.registers, 50, 16)
        >>> payload.shape[0], bool((sizes <= payload.shape[1]).all())
        (2, True)
    """
    if not isinstance(codes, Tensor) or codes.dtype is not torch.int32:
        raise TypeError(message("program_encode", "codes", "an int32 tensor", checks.describe(codes)))
    _check_model("program_encode", (code, weights, tables, variables), codes, "codes")
    if codes.dim() != 2 or codes.shape[1] != len(variables):
        expected = f"shape (N, {len(variables)})"
        raise ValueError(message("program_encode", "codes", expected, f"shape {tuple(codes.shape)}"))
    for name, value in (("registers", registers), ("each", each), ("lanes", lanes)):
        checks.integer("program_encode", name, value)
    return ENCODE.call(code, weights, tables, variables, codes, registers, each, lanes)


def program_decode(
    code: Tensor, weights: Tensor, tables: Tensor, variables: Tensor, payload: Tensor, offsets: Tensor, starts: Tensor,
    registers: int, lanes: int, rows: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Decodes the output of :func:`program_encode`. Prefer :func:`probkernels.codec.decode`, which checks its
    arguments.

    No stream can cause a read or write out of bounds.

    Args:
        code: (R, 9) int32, see :func:`program_encode`, like the next three.
        weights: (E,) float32 weights of all sums.
        tables: (T,) int16.
        variables: (V, 4) int64.
        payload: (B,) uint8, all streams, one after another.
        offsets: (chunks + 1,) int64: stream c is ``payload[offsets[c] : offsets[c + 1]]``.
        starts: (chunks + 1,) int64, rising from 0 to ``rows``: stream c holds the rows
            from ``starts[c]`` to ``starts[c + 1]``.
        registers: number of floats of working memory for a row.
        lanes: the ``lanes`` given to :func:`program_encode`.
        rows: number of rows in all streams.

    Returns:
        Codes (rows, V) int32, and the damage of each stream, (chunks,) int64: 0 none, 1 ends early, 2 wrong state, 3
        words left over.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, device or range is wrong, or offsets or starts are out of bounds.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import torch, probkernels as pk
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program
        >>> data = torch.randint(0, 4, (9, 6), dtype=torch.int32)
        >>> program = Program.from_circuit(hclt(data, latents=3))
        >>> payload, sizes = pk.ops.program_encode(*program.tensors, data, program.registers, 9, 4)
        >>> ends, starts = torch.tensor([0, int(sizes[0])]), torch.tensor([0, 9])
        >>> codes, damage = pk.ops.program_decode(
        ...     *program.tensors, payload[0], ends, starts, program.registers, lanes=4, rows=9)
        >>> torch.equal(codes, data), damage.tolist()
        (True, [0])
    """
    if not isinstance(payload, Tensor) or payload.dtype is not torch.uint8:
        raise TypeError(message("program_decode", "payload", "a uint8 tensor", checks.describe(payload)))
    _check_model("program_decode", (code, weights, tables, variables), payload, "payload")
    for name, value in (("registers", registers), ("lanes", lanes)):
        checks.integer("program_decode", name, value)
    check_streams("program_decode", payload, offsets, starts, rows)
    return DECODE.call(code, weights, tables, variables, payload, offsets, starts, registers, lanes, rows)
