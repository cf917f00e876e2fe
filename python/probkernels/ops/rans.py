"""Entropy coding of rows of symbols: ``rans_encode``, ``rans_decode``, their versions for probabilities, and
``quantize_cdf``."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.errors import CorruptStreamError, message
from ._rans import DECODE, DECODE_PMF, ENCODE, ENCODE_PMF, QUANTIZE

__all__ = ["quantize_cdf", "rans_decode", "rans_decode_pmf", "rans_encode", "rans_encode_pmf"]

PRECISION = 16
MOST_PRECISION = 24
SHARED = 16  # symbols for each distribution from which all counts are checked
MOST_SYMBOLS = 1 << 23  # of probabilities: whole numbers up to 2**30 then have sums up to 2**53, exact in any order
WHY = {
    1: "ends early",
    2: "has a wrong state",
    3: "has words left over",
    4: "meets counts that do not rise",
    5: "has an index without a distribution",
}


def check_precision(op: str, precision: object) -> int:
    """Checks ``precision``, the number of bits of counts."""
    return checks.integer(op, "precision", precision, 1, MOST_PRECISION)


def check_cdf(op: str, cdf: object, rows: int, n: int, index: Tensor | None, precision: int) -> None:
    """Checks that ``cdf`` is counts for rows of n symbols, or a table of counts for ``index``. Of the distributions'
    ends only the last one is checked: it catches counts of another precision, which could be coded, but with too many
    bits. Whether all counts rise is checked where the distributions are few for the symbols, as it would otherwise cost
    more than to code."""
    if not isinstance(cdf, Tensor) or cdf.dtype is not torch.int32:
        raise TypeError(message(op, "cdf", "an int32 tensor", checks.describe(cdf)))
    if index is not None and (cdf.dim() != 2 or cdf.shape[-1] < 2):
        raise ValueError(message(op, "cdf", "shape (T, K + 1) for an index", f"shape {tuple(cdf.shape)}"))
    sound = cdf.dim() in (1, 2, 3) and cdf.shape[-1] >= 2
    if index is None and not (sound and tuple(cdf.shape[:-1]) == (rows, n)[3 - cdf.dim() :]):
        wanted = f"shape (K + 1,), ({n}, K + 1) or ({rows}, {n}, K + 1)"
        raise ValueError(message(op, "cdf", wanted, f"shape {tuple(cdf.shape)}"))
    known = cdf.numel() and not torch.compiler.is_compiling() and not cdf.is_meta
    if known and (end := int(cdf[(-1,) * cdf.dim()])) != 1 << precision:
        hint = "give quantize_cdf and the coder the same precision"
        raise ValueError(message(op, "cdf", f"counts that end at 2**precision = {1 << precision}", f"{end}", hint))
    if known and cdf[..., 0].numel() * SHARED <= max(rows * n, SHARED) and bool((cdf[..., 1:] < cdf[..., :-1]).any()):
        place = (cdf[..., 1:] < cdf[..., :-1]).nonzero()[0].tolist()
        pair = cdf[tuple(place[:-1])][place[-1] : place[-1] + 2].tolist()
        got = f"{pair[1]} after {pair[0]} at {place}"
        raise ValueError(message(op, "cdf", "counts that rise", got, "see quantize_cdf"))


def as_index(op: str, index: object, cdf: object, rows: int, n: int) -> Tensor | None:
    """Converts ``index`` to what the kernels take. They find entries out of range; no large number may wrap into the
    range."""
    if index is None:
        return None
    if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64):
        raise TypeError(message(op, "index", "an int32 or int64 tensor", checks.describe(index)))
    if tuple(index.shape) != (rows, n):
        raise ValueError(message(op, "index", f"shape ({rows}, {n})", f"shape {tuple(index.shape)}"))
    if isinstance(cdf, Tensor):
        checks.same_device(op, "index", index, cdf, "cdf")
    return index if index.dtype is torch.int32 else index.clamp(-1, 2**31 - 1).int()


def check_index(op: str, given: Tensor | None, tables: int) -> None:
    """Checks that every entry names a table."""
    if given is not None and bool((wrong := (given < 0) | (given >= tables)).any()):
        raise ValueError(message(op, "index", f"numbers of 0 .. {tables - 1}", checks.offender(given, wrong)))


def refuse_symbols(op: str, symbols: Tensor, cdf: Tensor, index: Tensor | None, precision: int) -> None:
    """Raises for the first index that cannot be coded, or else for the first symbol."""
    check_index(op, index, len(cdf))
    rows, n = symbols.shape
    width = cdf.shape[-1]
    places = torch.arange(rows * n, device=cdf.device).view(rows, n)
    table = (places * 0, places % max(n, 1), places)[cdf.dim() - 1] if index is None else index.long()
    at = table * width + symbols.clamp(0, width - 2)
    below, above = cdf.reshape(-1)[at], cdf.reshape(-1)[at + 1]
    wrong = (symbols < 0) | (symbols > width - 2) | (below < 0) | (above <= below) | (above > 1 << precision)
    wanted = f"symbols of 0 .. {width - 2} with a count, of counts that rise to {1 << precision}"
    raise ValueError(message(op, "symbols", wanted, checks.offender(symbols, wrong)))


def _check_symbols(op: str, symbols: object) -> tuple[int, int]:
    devices.refuse_waiting(op)
    if not isinstance(symbols, Tensor) or symbols.dtype is not torch.int32:
        raise TypeError(message(op, "symbols", "an int32 tensor", checks.describe(symbols)))
    if symbols.dim() != 2:
        raise ValueError(message(op, "symbols", "shape (B, N)", f"shape {tuple(symbols.shape)}"))
    rows, n = symbols.shape
    return rows, n


def _check_streams(op: str, payload: object, offsets: object, n: object) -> int:
    """Checks streams and returns their number of rows."""
    devices.refuse_waiting(op)
    if not isinstance(payload, Tensor) or payload.dtype is not torch.uint8:
        raise TypeError(message(op, "payload", "a uint8 tensor", checks.describe(payload)))
    if not isinstance(offsets, Tensor) or offsets.dtype is not torch.int64:
        raise TypeError(message(op, "offsets", "an int64 tensor", checks.describe(offsets)))
    if payload.dim() != 1 or offsets.dim() != 1 or len(offsets) < 1:
        got = f"shapes {tuple(payload.shape)} and {tuple(offsets.shape)}"
        raise ValueError(message(op, "payload, offsets", "shapes (P,) and (B + 1,)", got))
    checks.same_device(op, "offsets", offsets, payload, "payload")
    checks.integer(op, "n", n, 0)
    if got := checks.not_rising(offsets, len(payload)):
        raise ValueError(message(op, "offsets", f"rising numbers from 0 to {len(payload)}", got))
    return len(offsets) - 1


def _failed(sizes: Tensor) -> bool:
    """Whether any row could not be coded. Only asked if there are values to look at."""
    return not torch.compiler.is_compiling() and not sizes.is_meta and bool((sizes < 0).any())


def refuse_damage(op: str, damage: Tensor) -> None:
    """Raises for the first damaged row."""
    for row, reason in enumerate(damage.tolist()):
        if reason:
            raise CorruptStreamError(f"{op}: row {row} {WHY[reason]}")


def rans_encode(
    symbols: Tensor, cdf: Tensor, precision: int = PRECISION, *, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Encodes each row of symbols to a stream. Every symbol may have its own distribution.

    Args:
        symbols: (B, N) int32 with values 0 .. K - 1.
        cdf: int32 counts below each symbol, from 0 to ``2**precision``; :func:`quantize_cdf` makes them. Shape (K + 1,)
            for all symbols, (N, K + 1) for each place in a row, (B, N, K + 1) for each symbol, or with ``index`` a
            table (T, K + 1). Pad a distribution of fewer symbols with ``2**precision``. Counts must rise, or streams
            cannot be decoded. A single distribution is checked, and so are several if there are 16 symbols or more for
            each; of others only the last count and those of the given symbols are checked.
        precision: bits of the counts in ``cdf``, 1 to 24.
        index: (B, N) int32 or int64: row of the table for each symbol. Gives the streams of ``cdf[index]`` without
            building that tensor. None without a table.

    Returns:
        Streams (B, capacity) uint8, padded with zeros, and their lengths (B,) int64. Each stream can be decoded alone.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, a symbol is out of range or has no count, an index is out of range, or the counts
            do not rise or have another precision.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Reference: Duda, "Asymmetric numeral systems", arXiv:1311.2540.

    Example:
        >>> import torch, probkernels as pk
        >>> cdf = pk.ops.quantize_cdf(torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.4, 0.4]]))
        >>> symbols = torch.zeros(4, 1000, dtype=torch.int32)
        >>> payload, sizes = pk.ops.rans_encode(symbols, cdf[0])
        >>> sizes.tolist()
        [36, 36, 36, 36]
        >>> payload, sizes = pk.ops.rans_encode(symbols, cdf, index=torch.ones(4, 1000, dtype=torch.long))
        >>> sizes.tolist()
        [312, 312, 312, 312]
    """
    rows, n = _check_symbols("rans_encode", symbols)
    check_precision("rans_encode", precision)
    places = as_index("rans_encode", index, cdf, rows, n)
    check_cdf("rans_encode", cdf, rows, n, places, precision)
    payload, sizes = ENCODE.call(symbols, cdf, places, precision)
    if _failed(sizes):
        refuse_symbols("rans_encode", symbols, cdf, index, precision)
    return payload, sizes


def rans_decode(
    payload: Tensor, offsets: Tensor, cdf: Tensor, n: int, precision: int = PRECISION, *, index: Tensor | None = None
) -> Tensor:
    """Decodes the output of :func:`rans_encode`. No stream can cause a read or write out of bounds.

    Args:
        payload: (P,) uint8, all streams, one after another.
        offsets: (B + 1,) int64: row b is ``payload[offsets[b] : offsets[b + 1]]``.
        cdf: the ``cdf`` given to :func:`rans_encode`.
        n: number of symbols in a row.
        precision: the ``precision`` given to the encoder.
        index: the ``index`` given to :func:`rans_encode`.

    Returns:
        Symbols (B, n) int32.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, number or index is wrong, or the counts are, as for :func:`rans_encode`.
        CorruptStreamError: no encoder can have made a stream with these distributions. The message names the row. This
            detects most damage, but not all; keep a checksum.

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
    rows = _check_streams("rans_decode", payload, offsets, n)
    check_precision("rans_decode", precision)
    places = as_index("rans_decode", index, cdf, rows, n)
    check_cdf("rans_decode", cdf, rows, n, places, precision)
    symbols, damage = DECODE.call(payload, offsets, cdf, places, n, precision)
    if bool(damage.any()):
        check_index("rans_decode", index, len(cdf))
        refuse_damage("rans_decode", damage)
    return symbols


def rans_encode_pmf(symbols: Tensor, pmf: Tensor, precision: int = PRECISION) -> tuple[Tensor, Tensor]:
    """Encodes rows of symbols with probabilities. Gives the streams of :func:`rans_encode` with ``quantize_cdf(pmf,
    precision)``, but computes only the counts that the symbols need.

    Args:
        symbols: (B, N) int32 with values 0 .. K - 1.
        pmf: (K,), (N, K) or (B, N, K) floating point with K <= 2**23, see :func:`quantize_cdf`.
        precision: bits of the counts, 1 to 24, with 2**precision >= K.

    Returns:
        Streams (B, capacity) uint8, padded with zeros, and their lengths (B,) int64.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, a symbol is out of range, or ``pmf`` are not probabilities.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Example:
        >>> import torch, probkernels as pk
        >>> symbols, pmf = torch.zeros(1, 1000, dtype=torch.int32), torch.rand(1, 1000, 256)
        >>> payload, sizes = pk.ops.rans_encode_pmf(symbols, pmf)
        >>> torch.equal(payload, pk.ops.rans_encode(symbols, pk.ops.quantize_cdf(pmf))[0])
        True
    """
    op = "rans_encode_pmf"
    rows, n = _check_symbols(op, symbols)
    wide = _as_pmf(op, pmf, rows, n, precision)
    checks.same_device(op, "pmf", wide, symbols, "symbols")
    if wide.dim() == 1 or (wide.dim() == 2 and rows != 1):  # each of them is used more than once
        return rans_encode(symbols, quantize_cdf(wide, precision), precision)
    payload, sizes = ENCODE_PMF.call(symbols, wide, precision)
    if _failed(sizes):
        _refuse_pmf(op, pmf)
        wrong = (symbols < 0) | (symbols >= pmf.shape[-1])
        wanted = f"symbols of 0 .. {pmf.shape[-1] - 1}"
        raise ValueError(message(op, "symbols", wanted, checks.offender(symbols, wrong)))
    return payload, sizes


def rans_decode_pmf(payload: Tensor, offsets: Tensor, pmf: Tensor, n: int, precision: int = PRECISION) -> Tensor:
    """Decodes the output of :func:`rans_encode_pmf`, or of :func:`rans_encode` with ``quantize_cdf(pmf, precision)``.

    Args:
        payload: (P,) uint8, all streams, one after another.
        offsets: (B + 1,) int64: row b is ``payload[offsets[b] : offsets[b + 1]]``.
        pmf: the ``pmf`` given to the encoder, equal to the last bit.
        n: number of symbols in a row.
        precision: the ``precision`` given to the encoder.

    Returns:
        Symbols (B, n) int32.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape or number is wrong, or ``pmf`` are not probabilities.
        CorruptStreamError: as :func:`rans_decode`.

    Backends: C++ (CPU), CUDA, plain torch (slow).

    Example:
        >>> import torch, probkernels as pk
        >>> symbols, pmf = torch.tensor([[0, 2, 1, 1]], dtype=torch.int32), torch.rand(1, 4, 3)
        >>> payload, sizes = pk.ops.rans_encode_pmf(symbols, pmf)
        >>> pk.ops.rans_decode_pmf(payload[0], torch.tensor([0, int(sizes[0])]), pmf, n=4).tolist()
        [[0, 2, 1, 1]]
    """
    op = "rans_decode_pmf"
    rows = _check_streams(op, payload, offsets, n)
    wide = _as_pmf(op, pmf, rows, n, precision)
    checks.same_device(op, "pmf", wide, payload, "payload")
    if wide.dim() == 1 or (wide.dim() == 2 and rows != 1):
        return rans_decode(payload, offsets, quantize_cdf(wide, precision), n, precision)
    symbols, damage = DECODE_PMF.call(payload, offsets, wide, n, precision)
    if bool(damage.any()):
        _refuse_pmf(op, pmf)
        refuse_damage(op, damage)
    return symbols


def _as_pmf(op: str, pmf: object, rows: int, n: int, precision: object) -> Tensor:
    """Converts probabilities for rows of n symbols to what the kernels take."""
    wide = _wide(op, pmf, precision)
    if wide.dim() > 3 or tuple(wide.shape[:-1]) != (rows, n)[3 - wide.dim() :]:
        wanted = f"shape (K,), ({n}, K) or ({rows}, {n}, K)"
        raise ValueError(message(op, "pmf", wanted, f"shape {tuple(wide.shape)}"))
    return wide


def _wide(op: str, pmf: object, precision: object) -> Tensor:
    devices.refuse_waiting(op)
    if not isinstance(pmf, Tensor) or not pmf.dtype.is_floating_point:
        raise TypeError(message(op, "pmf", "a tensor of floating point", checks.describe(pmf)))
    k, most = pmf.shape[-1] if pmf.dim() else 0, min(1 << check_precision(op, precision), MOST_SYMBOLS)
    if not 1 <= k <= most:
        raise ValueError(message(op, "pmf", f"1 to {most} symbols", f"{k}"))
    return pmf if pmf.dtype is torch.float64 else pmf.float()


def _refuse_pmf(op: str, pmf: Tensor) -> None:
    """Raises if some values are not probabilities."""
    wrong = ~(pmf.isfinite() & (pmf >= 0))
    zero = pmf.double().amax(-1, keepdim=True) <= 2.0**30 / 1e300  # less cannot be scaled
    if bool(wrong.any()) or bool(zero.any()):
        got = checks.offender(pmf, wrong) if wrong.any() else checks.offender(pmf, zero, "only zeros, ")
        raise ValueError(message(op, "pmf", "finite numbers >= 0, not all 0", got))


def quantize_cdf(pmf: Tensor, precision: int = PRECISION) -> Tensor:
    """Converts probabilities to the cumulative counts that :func:`rans_encode` takes. Every symbol gets a count of at
    least 1.

    Equal probabilities give equal counts on every machine and device. But a network may compute slightly different
    probabilities on another machine.

    Args:
        pmf: (..., K) floating point, >= 0, K <= 2**23, with a finite sum above 0. The sum need not be 1.
        precision: bits of the counts, 1 to 24, with 2**precision >= K.

    Returns:
        (..., K + 1) int32, from 0 to ``2**precision``.

    Raises:
        TypeError: ``pmf`` is not floating point.
        ValueError: ``pmf`` are not probabilities, or there are too many symbols for the precision.

    Example:
        >>> import torch, probkernels as pk
        >>> pk.ops.quantize_cdf(torch.tensor([0.5, 0.25, 0.25]), precision=8).tolist()
        [0, 128, 192, 256]
    """
    wide = _wide("quantize_cdf", pmf, precision)
    k = wide.shape[-1]
    found = QUANTIZE.call(wide.reshape(-1, k), precision)
    if _failed(found[:, 0]):
        _refuse_pmf("quantize_cdf", pmf)
    return found.view(*pmf.shape[:-1], k + 1)
