"""Entropy coding of rows of symbols: the ops and the code that calls their kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._core.backend import Backend
from .._core.formats.streams import LOWER, packed
from .._core.native import DTYPE_CODE
from ..reference import rans as reference
from ._coding import coding_op

MOST_LOOKUP_BITS = 12  # of a distribution
MOST_LOOKUP = 1 << 21  # entries of two bytes, of all distributions


def _steps(cdf: Tensor, index: Tensor | None) -> tuple[int, int, int]:
    """Strides of ``cdf`` between two rows and between two symbols, and its number of distributions for an index."""
    width = cdf.shape[-1]
    per_row = cdf.shape[1] * width if cdf.dim() == 3 else 0
    return per_row, width if cdf.dim() > 1 else 0, 0 if index is None else len(cdf)


def _dense(index: Tensor | None) -> Tensor | None:
    return None if index is None else index.contiguous()


def _encode_fake(symbols: Tensor, cdf: Tensor, index: Tensor | None, precision: int) -> tuple[Tensor, Tensor]:
    rows, n = symbols.shape
    room = reference.capacity(n, precision)
    return symbols.new_empty((rows, room), dtype=torch.uint8), symbols.new_empty(rows, dtype=torch.int64)


def _encode(run: Backend, symbols: Tensor, cdf: Tensor, index: Tensor | None, precision: int) -> tuple[Tensor, Tensor]:
    payload, sizes = _encode_fake(symbols, cdf, index, precision)
    numbers = (*symbols.shape, cdf.shape[-1] - 1, *_steps(cdf, index), precision, payload.shape[1])
    run.launch("rans_encode", symbols.contiguous(), cdf.contiguous(), _dense(index), payload, sizes, *numbers)
    return payload, sizes


def _encode_pmf_fake(symbols: Tensor, pmf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    return _encode_fake(symbols, pmf, None, precision)


def _encode_pmf(run: Backend, symbols: Tensor, pmf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    payload, sizes = _encode_fake(symbols, pmf, None, precision)
    k = pmf.shape[-1]
    numbers = (*symbols.shape, k, pmf.shape[1] * k if pmf.dim() == 3 else 0, precision, payload.shape[1])
    tensors = symbols.contiguous(), pmf.contiguous(), payload, sizes
    run.launch("rans_encode_pmf", DTYPE_CODE[pmf.dtype], *tensors, *numbers)
    return payload, sizes


def _decode_fake(
    payload: Tensor, offsets: Tensor, cdf: Tensor, index: Tensor | None, n: int, precision: int
) -> tuple[Tensor, Tensor]:
    rows = len(offsets) - 1
    return payload.new_empty((rows, n), dtype=torch.int32), payload.new_empty(rows, dtype=torch.int64)


def lookup_bits(tables: int, k: int, symbols: int, precision: int) -> int:
    """log2 of the number of entries in each distribution's lookup table, for ``tables`` distributions. -1 if a lookup
    does not pay."""
    if not tables:
        return -1
    bits = min(precision, MOST_LOOKUP_BITS, k.bit_length() + 2)
    while tables << bits > min(MOST_LOOKUP, symbols):
        if not bits or 1 << (bits - 1) < k:  # most entries would have several symbols
            return -1
        bits -= 1
    return bits if k < 1 << 16 else -1


def _lookup(run: Backend, cdf: Tensor, symbols: int, precision: int) -> tuple[Tensor | None, int]:
    """The lookup table: the first symbol of each of many equal intervals of slots. Also log2 of the number of
    intervals."""
    k, tables = cdf.shape[-1] - 1, 1 if cdf.dim() == 1 else len(cdf)
    bits = -1 if cdf.dim() == 3 else lookup_bits(tables, k, symbols, precision)
    if bits < 0:
        return None, 0
    lookup = cdf.new_empty((tables, 1 << bits), dtype=torch.int16)
    run.launch("rans_lookup", cdf, lookup, tables, k, precision, bits)
    return lookup, bits


def _decode(
    run: Backend, payload: Tensor, offsets: Tensor, cdf: Tensor, index: Tensor | None, n: int, precision: int
) -> tuple[Tensor, Tensor]:
    rows = len(offsets) - 1
    if not rows * n:  # nothing to decode, but streams to look at
        return reference.rans_decode(payload, offsets, cdf, index, n, precision)
    symbols, damage = payload.new_zeros((rows, n), dtype=torch.int32), payload.new_zeros(rows, dtype=torch.int64)
    cdf = cdf.contiguous()
    lookup, bits = _lookup(run, cdf, rows * n, precision)
    tensors = payload.contiguous(), offsets.contiguous(), cdf, _dense(index), lookup, symbols, damage
    numbers = (rows, n, cdf.shape[-1] - 1, *_steps(cdf, index), precision, bits)
    run.launch("rans_decode", *tensors, *numbers)
    return symbols, damage


def _decode_pmf_fake(payload: Tensor, offsets: Tensor, pmf: Tensor, n: int, precision: int) -> tuple[Tensor, Tensor]:
    return _decode_fake(payload, offsets, pmf, None, n, precision)


def _decode_pmf(
    run: Backend, payload: Tensor, offsets: Tensor, pmf: Tensor, n: int, precision: int
) -> tuple[Tensor, Tensor]:
    rows, k = len(offsets) - 1, pmf.shape[-1]
    if not rows * n:
        return reference.rans_decode_pmf(payload, offsets, pmf, n, precision)
    symbols, damage = payload.new_zeros((rows, n), dtype=torch.int32), payload.new_zeros(rows, dtype=torch.int64)
    room = symbols.new_empty((rows, k + 1))
    tensors = payload.contiguous(), offsets.contiguous(), pmf.contiguous(), room, symbols, damage
    numbers = (rows, n, k, n * k if pmf.dim() == 3 else 0, precision)
    run.launch("rans_decode_pmf", DTYPE_CODE[pmf.dtype], *tensors, *numbers)
    return symbols, damage


def _push_fake(
    symbols: Tensor, cdf: Tensor, index: Tensor | None, states: Tensor, precision: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(symbols), torch.empty_like(states), torch.empty_like(states)


def _push(
    run: Backend, symbols: Tensor, cdf: Tensor, index: Tensor | None, states: Tensor, precision: int
) -> tuple[Tensor, Tensor, Tensor]:
    symbols, states = symbols.contiguous(), states.clone()
    words, sizes = torch.zeros_like(symbols), torch.empty_like(states)
    numbers = (*symbols.shape, cdf.shape[-1] - 1, *_steps(cdf, index), precision)
    run.launch("rans_push", symbols, cdf.contiguous(), _dense(index), states, words, sizes, *numbers)
    return words, sizes, states


def _pop_fake(
    states: Tensor, words: Tensor, sizes: Tensor, cdf: Tensor, index: Tensor | None, n: int, precision: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    empty = torch.empty_like(states)
    return words.new_empty((len(states), n)), empty, torch.empty_like(empty), torch.empty_like(empty)


def _pop(
    run: Backend,
    states: Tensor,
    words: Tensor,
    sizes: Tensor,
    cdf: Tensor,
    index: Tensor | None,
    n: int,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    states, sizes, damage = states.clone(), sizes.clone(), torch.zeros_like(sizes)
    symbols = words.new_zeros((len(states), n))
    if n:
        numbers = (*symbols.shape, cdf.shape[-1] - 1, *_steps(cdf, index), precision, words.shape[1])
        tensors = cdf.contiguous(), states, _dense(index), words.contiguous(), sizes, symbols, damage
        run.launch("rans_pop", *tensors, *numbers)
    return symbols, damage, states, sizes


def _quantize_fake(pmf: Tensor, precision: int) -> Tensor:
    return pmf.new_empty((len(pmf), pmf.shape[1] + 1), dtype=torch.int32)


def _quantize(run: Backend, pmf: Tensor, precision: int) -> Tensor:
    counts = _quantize_fake(pmf, precision)
    run.launch("quantize_cdf", DTYPE_CODE[pmf.dtype], pmf.contiguous(), counts, *pmf.shape, precision)
    return counts


def _quantize_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: a few rows."""
    return [(torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 7.0]], dtype=dtype, device=device), 8)]


def _encode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: one distribution for all symbols, one for each place of a row, one for each symbol, and a
    table."""
    symbols = (torch.arange(12, dtype=torch.int32, device=device) % 3).reshape(2, 6)
    cdf = torch.tensor([0, 3, 200, 256], dtype=torch.int32, device=device)
    table = torch.stack([cdf, torch.tensor([0, 100, 101, 256], dtype=torch.int32, device=device)])
    given = [(symbols, cdf, None, 8), (symbols, cdf.repeat(6, 1), None, 8), (symbols, cdf.repeat(2, 6, 1), None, 8)]
    return [*given, (symbols, table, (symbols + 1) % 2, 8)]


def _encode_pmf_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: probabilities for each symbol, and for all symbols."""
    symbols = (torch.arange(12, dtype=torch.int32, device=device) % 3).reshape(2, 6)
    pmf = torch.arange(18, device=device).reshape(6, 3) % 7 + 0.5
    return [(symbols, pmf, 8), (symbols, pmf.double().repeat(2, 1, 1), 8)]


def _decode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: encoded streams, with one distribution and with a table."""
    given = [_encode_examples(device, dtype)[i] for i in (0, 3)]
    return [(*packed(*reference.rans_encode(*args)), args[1], args[2], 6, args[3]) for args in given]


def _decode_pmf_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: encoded streams."""
    given = _encode_pmf_examples(device, dtype)
    return [(*packed(*reference.rans_encode_pmf(*args)), args[1], 6, args[2]) for args in given]


def _push_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: a nearly full state and an empty one."""
    states = torch.tensor([LOWER, -5], device=device)
    return [(symbols, cdf, index, states, bits) for symbols, cdf, index, bits in _encode_examples(device, dtype)]


def _pop_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Example arguments: a state after pushes."""
    found = []
    for symbols, cdf, index, states, bits in _push_examples(device, dtype):
        words, sizes, states = reference.rans_push(symbols, cdf, index, states, bits)
        found.append((states, words, sizes, cdf, index, symbols.shape[1], bits))
    return found


_op = functools.partial(coding_op, family="rans")
FLOATS = (torch.float32, torch.float64)
QUANTIZE = _op(
    "(Tensor pmf, int precision) -> Tensor",
    reference.quantize_cdf,
    _quantize,
    _quantize_fake,
    _quantize_examples,
    dtypes=FLOATS,
)
ENCODE = _op(
    "(Tensor symbols, Tensor cdf, Tensor? index, int precision) -> (Tensor, Tensor)",
    reference.rans_encode,
    _encode,
    _encode_fake,
    _encode_examples,
    dtypes=(torch.int32,),
)
ENCODE_PMF = _op(
    "(Tensor symbols, Tensor pmf, int precision) -> (Tensor, Tensor)",
    reference.rans_encode_pmf,
    _encode_pmf,
    _encode_pmf_fake,
    _encode_pmf_examples,
    dtypes=(torch.int32,),
)
DECODE = _op(
    "(Tensor payload, Tensor offsets, Tensor cdf, Tensor? index, int n, int precision) -> (Tensor, Tensor)",
    reference.rans_decode,
    _decode,
    _decode_fake,
    _decode_examples,
    dtypes=(torch.uint8,),
)
DECODE_PMF = _op(
    "(Tensor payload, Tensor offsets, Tensor pmf, int n, int precision) -> (Tensor, Tensor)",
    reference.rans_decode_pmf,
    _decode_pmf,
    _decode_pmf_fake,
    _decode_pmf_examples,
    dtypes=(torch.uint8,),
)
PUSH = _op(
    "(Tensor symbols, Tensor cdf, Tensor? index, Tensor states, int precision) -> (Tensor, Tensor, Tensor)",
    reference.rans_push,
    _push,
    _push_fake,
    _push_examples,
    dtypes=(torch.int32,),
)
POP = _op(
    "(Tensor states, Tensor words, Tensor sizes, Tensor cdf, Tensor? index, int n, int precision)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    reference.rans_pop,
    _pop,
    _pop_fake,
    _pop_examples,
    dtypes=(torch.int64,),
)
