"""Entropy coding of rows of symbols: the ops, the kernels' glue, ``rans_encode``, ``rans_decode`` and
``quantize_cdf``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import CorruptStreamError, message
from .._core.native import DTYPE_CODE
from .._core.registry import Op
from ..reference import rans as reference

PRECISION = 16
MOST_PRECISION = 24
WHY = {1: "ends early", 2: "has a wrong state", 3: "has words left over", 4: "meets counts that do not rise"}


def _steps(cdf: Tensor) -> tuple[int, int]:
    """Entries of ``cdf`` between two rows, and between two symbols."""
    width = cdf.shape[-1]
    return (cdf.shape[1] * width if cdf.dim() == 3 else 0, width if cdf.dim() > 1 else 0)


def _encode_fake(symbols: Tensor, cdf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    rows, n = symbols.shape
    room = reference.capacity(n, precision)
    return symbols.new_empty((rows, room), dtype=torch.uint8), symbols.new_empty(rows, dtype=torch.int64)


def _encode(run: Backend, symbols: Tensor, cdf: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    rows, n = symbols.shape
    room = reference.capacity(n, precision)
    payload = symbols.new_empty((rows, room), dtype=torch.uint8)
    sizes = symbols.new_empty(rows, dtype=torch.int64)
    cdf = cdf.contiguous()
    numbers = (rows, n, cdf.shape[-1] - 1, *_steps(cdf), precision, room)
    run.launch("rans_encode", symbols.contiguous(), cdf, payload, sizes, *numbers)
    return payload, sizes


def _decode_fake(payload: Tensor, offsets: Tensor, cdf: Tensor, n: int, precision: int) -> tuple[Tensor, Tensor]:
    rows = len(offsets) - 1
    return payload.new_empty((rows, n), dtype=torch.int32), payload.new_empty(rows, dtype=torch.int64)


def _decode(
    run: Backend, payload: Tensor, offsets: Tensor, cdf: Tensor, n: int, precision: int
) -> tuple[Tensor, Tensor]:
    rows = len(offsets) - 1
    symbols, damage = payload.new_zeros((rows, n), dtype=torch.int32), payload.new_zeros(rows, dtype=torch.int64)
    if rows and n:
        cdf = cdf.contiguous()
        numbers = (rows, n, cdf.shape[-1] - 1, *_steps(cdf), precision)
        run.launch("rans_decode", payload.contiguous(), offsets.contiguous(), cdf, symbols, damage, *numbers)
    return symbols, damage


def _quantize_fake(pmf: Tensor, precision: int) -> Tensor:
    return pmf.new_empty((len(pmf), pmf.shape[1] + 1), dtype=torch.int32)


def _quantize(run: Backend, pmf: Tensor, precision: int) -> Tensor:
    counts = _quantize_fake(pmf, precision)
    run.launch("quantize_cdf", DTYPE_CODE[pmf.dtype], pmf.contiguous(), counts, *pmf.shape, precision)
    return counts


def _quantize_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """A few rows."""
    return [(torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 7.0]], dtype=dtype, device=device), 8)]


def _encode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """A distribution for all symbols, one for each of a row, and one for each."""
    symbols = (torch.arange(12, dtype=torch.int32, device=device) % 3).reshape(2, 6)
    cdf = torch.tensor([0, 3, 200, 256], dtype=torch.int32, device=device)
    return [(symbols, cdf, 8), (symbols, cdf.repeat(6, 1), 8), (symbols, cdf.repeat(2, 6, 1), 8)]


def _decode_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """What was encoded."""
    symbols, cdf, precision = _encode_examples(device, dtype)[0]
    payload, sizes = reference.rans_encode(symbols, cdf, precision)
    joined = torch.cat([row[:size] for row, size in zip(payload, sizes.tolist(), strict=True)])
    return [(joined, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), cdf, 6, precision)]


QUANTIZE = Op(
    "quantize_cdf",
    "(Tensor pmf, int precision) -> Tensor",
    family="rans",
    reference=reference.quantize_cdf,
    kernels=dict.fromkeys(("cpu", "cuda"), _quantize),
    fake=_quantize_fake,
    examples=_quantize_examples,
    dtypes=(torch.float32, torch.float64),
    differentiable=False,
)
ENCODE = Op(
    "rans_encode",
    "(Tensor symbols, Tensor cdf, int precision) -> (Tensor, Tensor)",
    family="rans",
    reference=reference.rans_encode,
    kernels=dict.fromkeys(("cpu", "cuda"), _encode),
    fake=_encode_fake,
    examples=_encode_examples,
    dtypes=(torch.int32,),
    differentiable=False,
)
DECODE = Op(
    "rans_decode",
    "(Tensor payload, Tensor offsets, Tensor cdf, int n, int precision) -> (Tensor, Tensor)",
    family="rans",
    reference=reference.rans_decode,
    kernels=dict.fromkeys(("cpu", "cuda"), _decode),
    fake=_decode_fake,
    examples=_decode_examples,
    dtypes=(torch.uint8,),
    differentiable=False,
)


def _check_cdf(op: str, cdf: object, rows: int, n: int, precision: object) -> None:
    if not isinstance(cdf, Tensor) or cdf.dtype is not torch.int32:
        raise TypeError(message(op, "cdf", "an int32 tensor", checks.describe(cdf)))
    if cdf.dim() not in (1, 2, 3) or cdf.shape[-1] < 2 or tuple(cdf.shape[:-1]) != (rows, n)[3 - cdf.dim() :]:
        wanted = f"shape (K + 1,), ({n}, K + 1) or ({rows}, {n}, K + 1)"
        raise ValueError(message(op, "cdf", wanted, f"shape {tuple(cdf.shape)}"))
    if isinstance(precision, bool) or not isinstance(precision, int):
        raise TypeError(message(op, "precision", "a whole number", checks.describe(precision)))
    if not 1 <= precision <= MOST_PRECISION:
        raise ValueError(message(op, "precision", f"1 to {MOST_PRECISION}", repr(precision)))


def rans_encode(symbols: Tensor, cdf: Tensor, precision: int = PRECISION) -> tuple[Tensor, Tensor]:
    """Codes rows of symbols, each with a distribution of its own if need be, into one stream a row.

    Args:
        symbols: (B, N) int32, each in 0 .. K - 1.
        cdf: (K + 1,) for all symbols, (N, K + 1) for the places of a row, or (B, N, K + 1) int32: counts below each
            symbol, from 0 to ``2**precision``; :func:`quantize_cdf` makes them.
        precision: 1 to 24 bits.

    Returns:
        Streams (B, capacity) uint8, zeros after their ends, and their lengths (B,) int64. Streams do not depend on one
        another.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or a symbol is out of range or has no count.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Duda, "Asymmetric numeral systems", arXiv:1311.2540.

    Example:
        >>> import torch, probkernels as pk
        >>> cdf = pk.ops.quantize_cdf(torch.tensor([0.9, 0.05, 0.05]))
        >>> payload, sizes = pk.ops.rans_encode(torch.zeros(4, 1000, dtype=torch.int32), cdf)
        >>> sizes.tolist()
        [36, 36, 36, 36]
    """
    if not isinstance(symbols, Tensor) or symbols.dtype is not torch.int32:
        raise TypeError(message("rans_encode", "symbols", "an int32 tensor", checks.describe(symbols)))
    if symbols.dim() != 2:
        raise ValueError(message("rans_encode", "symbols", "shape (B, N)", f"shape {tuple(symbols.shape)}"))
    rows, n = symbols.shape
    _check_cdf("rans_encode", cdf, rows, n, precision)
    payload, sizes = ENCODE.call(symbols, cdf, precision)
    if not torch.compiler.is_compiling() and not sizes.is_meta and bool((sizes < 0).any()):
        row = int((sizes < 0).nonzero()[0])
        wanted = "symbols of 0 .. K - 1 with a count, of counts that rise to 2**precision"
        raise ValueError(message("rans_encode", "symbols", wanted, f"another in row {row}"))
    return payload, sizes


def rans_decode(payload: Tensor, offsets: Tensor, cdf: Tensor, n: int, precision: int = PRECISION) -> Tensor:
    """Decodes what :func:`rans_encode` coded. No stream can make it read or write out of bounds.

    Args:
        payload: (P,) uint8, all streams.
        offsets: (B + 1,) int64: row b is ``payload[offsets[b] : offsets[b + 1]]``.
        cdf: as they were coded with.
        n: symbols of a row.
        precision: as they were coded with.

    Returns:
        Symbols (B, n) int32.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or number is wrong.
        CorruptStreamError: a stream that no encoder makes with these distributions; it names the row. Most damage is
            found so, but not all: keep a checksum.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Duda, "Asymmetric numeral systems", arXiv:1311.2540.

    Example:
        >>> import torch, probkernels as pk
        >>> symbols, pmf = torch.tensor([[0, 2, 1, 1]], dtype=torch.int32), torch.rand(1, 4, 3)
        >>> cdf = pk.ops.quantize_cdf(pmf)
        >>> payload, sizes = pk.ops.rans_encode(symbols, cdf)
        >>> pk.ops.rans_decode(payload[0], torch.tensor([0, int(sizes[0])]), cdf, n=4).tolist()
        [[0, 2, 1, 1]]
    """
    if not isinstance(payload, Tensor) or payload.dtype is not torch.uint8:
        raise TypeError(message("rans_decode", "payload", "a uint8 tensor", checks.describe(payload)))
    if not isinstance(offsets, Tensor) or offsets.dtype is not torch.int64:
        raise TypeError(message("rans_decode", "offsets", "an int64 tensor", checks.describe(offsets)))
    if payload.dim() != 1 or offsets.dim() != 1 or len(offsets) < 1:
        got = f"shapes {tuple(payload.shape)} and {tuple(offsets.shape)}"
        raise ValueError(message("rans_decode", "payload, offsets", "shapes (P,) and (B + 1,)", got))
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(message("rans_decode", "n", "a whole number", checks.describe(n)))
    if n < 0:
        raise ValueError(message("rans_decode", "n", "0 or more", repr(n)))
    _check_cdf("rans_decode", cdf, len(offsets) - 1, n, precision)
    if got := checks.not_rising(offsets, len(payload)):
        raise ValueError(message("rans_decode", "offsets", f"rising numbers from 0 to {len(payload)}", got))
    symbols, damage = DECODE.call(payload, offsets, cdf, n, precision)
    for row, reason in enumerate(damage.tolist()):
        if reason:
            raise CorruptStreamError(f"rans_decode: row {row} {WHY[reason]}")
    return symbols


def quantize_cdf(pmf: Tensor, precision: int = PRECISION) -> Tensor:
    """Probabilities as the cumulative counts that :func:`rans_encode` takes; every symbol gets 1 at least.

    The same probabilities give the same counts on every machine and device; but a network that computes probabilities
    need not give the same ones.

    Args:
        pmf: (..., K) floating point, not negative, with a finite sum above 0; it need not be 1.
        precision: 1 to 24 bits, enough for K.

    Returns:
        (..., K + 1) int32, from 0 to ``2**precision``.

    Raises:
        TypeError: no floating point.
        ValueError: probabilities that are none, or too many symbols for the precision.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.ops.quantize_cdf(torch.tensor([0.5, 0.25, 0.25]), precision=8).tolist()
        [0, 128, 192, 256]
    """
    if not isinstance(pmf, Tensor) or not pmf.dtype.is_floating_point:
        raise TypeError(message("quantize_cdf", "pmf", "a tensor of floating point", checks.describe(pmf)))
    if isinstance(precision, bool) or not isinstance(precision, int) or not 1 <= precision <= MOST_PRECISION:
        raise ValueError(message("quantize_cdf", "precision", f"1 to {MOST_PRECISION}", repr(precision)))
    k = pmf.shape[-1] if pmf.dim() else 0
    if not 1 <= k <= 1 << precision:
        raise ValueError(message("quantize_cdf", "pmf", f"1 to {1 << precision} symbols", f"{k}"))
    wide = pmf if pmf.dtype is torch.float64 else pmf.float()
    found = QUANTIZE.call(wide.reshape(-1, k), precision)
    if not torch.compiler.is_compiling() and not found.is_meta and bool((found[:, 0] < 0).any()):
        wrong = ~(wide.isfinite() & (wide >= 0))
        zero = (wide == 0).all(-1, keepdim=True)
        got = checks.offender(pmf, wrong) if wrong.any() else checks.offender(pmf, zero, "only zeros, ")
        raise ValueError(message("quantize_cdf", "pmf", "finite numbers >= 0, not all 0", got))
    return found.view(*pmf.shape[:-1], k + 1)
