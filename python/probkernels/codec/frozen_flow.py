"""Integer flows as the codec runs them: bijections on whole numbers that every machine evaluates alike."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .._core import digests
from .._core.errors import CorruptStreamError, message
from . import format as parts
from .layout import read_only

MAGIC = b"\x89PCF\r\n\x1a\n"
VERSION = 1
PREFIX = struct.Struct("<8sHHIIIQ")  # magic, version, 0, variables, couplings, hidden units, packed bytes
WIDE = np.dtype("<i8")
NARROW = np.dtype("<i2")
FRACTION = 8  # bits behind the point of a hidden unit
MOST_HIDDEN = 2**15 - 1  # largest value of one
MOST_SHIFT = 30
MOST_UNITS = 2**16
EXACT = 2**53  # whole numbers below it are exact in float64, and so is every sum of them in any order
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**20}]


@dataclass(frozen=True, eq=False)
class Coupling:
    """An additive coupling. The variables ``given`` shift the variables ``moved``: z = x + t(x_given) modulo the
    alphabet.

    t is a network with one hidden layer in fixed-point arithmetic: h = clip((A x + a) >> first, 0, 32767) with
    :data:`FRACTION` fractional bits, then t = (B h + b) >> second. Both shifts round to nearest, halves up.

    given (I,), moved (O,) int64; A (H, I), B (O, H) int16; a (H,), b (O,) int64; first, second: in 0 .. 30.
    """

    given: np.ndarray
    moved: np.ndarray
    A: np.ndarray
    a: np.ndarray
    B: np.ndarray
    b: np.ndarray
    first: int
    second: int

    def __post_init__(self) -> None:
        for name in ("given", "moved", "A", "a", "B", "b"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def shift(self, x: np.ndarray) -> np.ndarray:
        """t(x), (N, O) int64, of x (N, V) int64. Computed in float64, which is faster and exact below 2**53."""
        h = x[:, self.given].astype(np.float64) @ self._matrices[0] + self.a
        h = np.clip(np.floor(h * 0.5**self.first + 0.5), 0, MOST_HIDDEN)
        return np.floor((h @ self._matrices[1] + self.b) * 0.5**self.second + 0.5).astype(np.int64)

    @cached_property
    def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
        return self.A.T.astype(np.float64), self.B.T.astype(np.float64)

    def largest(self, categories: np.ndarray) -> int:
        """An upper bound on every number that occurs."""
        top = categories[self.given] - 1
        hidden = np.abs(self.A.astype(object)) @ top.astype(object) + np.abs(self.a.astype(object))
        moved = np.abs(self.B.astype(object)).sum(1) * MOST_HIDDEN + np.abs(self.b.astype(object))
        return int(max(np.max(hidden, initial=0), np.max(moved, initial=0)))


class FrozenFlow:
    """A bijection on rows of whole numbers, made of additive couplings. Each variable stays in its own alphabet.

    All arithmetic is exact on whole numbers, so the result does not depend on machine, threads or batch size.

    Args:
        categories: number of categories of each variable.
        couplings: couplings in the order in which they are applied.

    Raises:
        ValueError: a coupling's numbers could reach 2**53, or it names variables that do not exist.

    Reference: Hoogeboom, Peters, van den Berg, Welling, Integer Discrete Flows and Lossless Compression, NeurIPS 2019.

    Example:
        >>> import torch
        >>> from probkernels.codec import IntegerFlow
        >>> x = torch.randint(0, 8, (20, 6))
        >>> flow = IntegerFlow([8] * 6, hidden=16).freeze()
        >>> bool((flow.decode(flow.encode(x.numpy())) == x.numpy()).all())
        True
    """

    def __init__(self, categories: Sequence[int], couplings: Sequence[Coupling]) -> None:
        self.categories, self.couplings = read_only(np.asarray(categories, np.int64)), tuple(couplings)
        for i, coupling in enumerate(self.couplings):
            places = np.sort(np.concatenate([coupling.given, coupling.moved]))
            if not np.array_equal(places, np.arange(len(self.categories))):
                raise ValueError(message("FrozenFlow", f"couplings[{i}]", "every variable once", f"{places.tolist()}"))
            if not (0 <= coupling.first <= MOST_SHIFT and 0 <= coupling.second <= MOST_SHIFT):
                got = f"{coupling.first} and {coupling.second}"
                raise ValueError(message("FrozenFlow", f"couplings[{i}]", f"shifts in 0 .. {MOST_SHIFT}", got))
            if coupling.largest(self.categories) >= EXACT:
                raise ValueError(message("FrozenFlow", f"couplings[{i}]", "numbers below 2**53", "larger ones"))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Maps x (N, V), integers below the numbers of categories, to latents z (N, V) int32.

        Raises:
            ValueError: x has the wrong shape or values outside the alphabets.
        """
        z = self._checked("FrozenFlow.encode", x)
        for coupling in self.couplings:
            z[:, coupling.moved] = (z[:, coupling.moved] + coupling.shift(z)) % self.categories[coupling.moved]
        return z.astype(np.int32)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Maps latents z (N, V) back to x (N, V) int32, the inverse of :meth:`encode`.

        Raises:
            ValueError: z has the wrong shape or values outside the alphabets.
        """
        x = self._checked("FrozenFlow.decode", z)
        for coupling in reversed(self.couplings):
            x[:, coupling.moved] = (x[:, coupling.moved] - coupling.shift(x)) % self.categories[coupling.moved]
        return x.astype(np.int32)

    def _checked(self, op: str, rows: np.ndarray) -> np.ndarray:
        found = np.array(rows)
        if found.dtype.kind not in "iu" or isinstance(rows, np.ma.MaskedArray):
            got = "a masked array" if isinstance(rows, np.ma.MaskedArray) else str(found.dtype)
            raise TypeError(message(op, "rows", "whole numbers", got))
        if found.ndim != 2 or found.shape[1] != len(self.categories):
            raise ValueError(message(op, "rows", f"shape (N, {len(self.categories)})", f"shape {found.shape}"))
        given, found = found, found.astype(np.int64)
        wrong = np.argwhere((found < 0) | (found >= self.categories))
        if len(wrong):
            row, column = wrong[0].tolist()
            got = f"{given[row, column]} at [{row}, {column}]"
            raise ValueError(message(op, "rows", f"values in 0 .. {self.categories[column] - 1}", got))
        return found

    @cached_property
    def flow_id(self) -> bytes:
        """SHA-256 of :meth:`to_bytes` before it is compressed."""
        return digests.identity(MAGIC, self._plain())

    def _plain(self) -> bytes:
        found = [self.categories.astype(WIDE).tobytes()]
        for c in self.couplings:
            head = np.array([len(c.given), len(c.a), c.first, c.second], WIDE)
            found += [head.tobytes(), c.given.astype(WIDE).tobytes(), c.moved.astype(WIDE).tobytes()]
            found += [c.A.astype(NARROW).tobytes(), c.B.astype(NARROW).tobytes()]
            found += [c.a.astype(WIDE).tobytes(), c.b.astype(WIDE).tobytes()]
        return b"".join(found)

    def to_bytes(self) -> bytes:
        """The flow as one part of a model file, with a CRC."""
        packed = lzma.compress(self._plain(), lzma.FORMAT_RAW, filters=FILTERS)
        hidden = max((len(c.a) for c in self.couplings), default=0)
        head = PREFIX.pack(MAGIC, VERSION, 0, len(self.categories), len(self.couplings), hidden, len(packed))
        return parts.sealed(head + packed)

    @classmethod
    def from_bytes(cls, data: bytes, max_bytes: int) -> tuple[FrozenFlow, bytes]:
        """Reads the output of :meth:`to_bytes`. Returns the flow and the bytes behind it.

        Raises:
            CorruptStreamError: the data are damaged or exceed ``max_bytes`` when decompressed.
        """
        if len(data) < PREFIX.size or data[:8] != MAGIC:
            raise CorruptStreamError("flow: not a flow")
        _, version, zero, variables, couplings, hidden, packed = PREFIX.unpack(data[: PREFIX.size])
        if version != VERSION or zero:
            raise CorruptStreamError(f"flow: expected version {VERSION}, got {version}")
        end = PREFIX.size + packed + len(parts.sealed(b""))
        body = parts.opened(data[:end], "flow") if end <= len(data) else b""
        if not body or not 1 <= variables <= MOST_UNITS or hidden > MOST_UNITS or couplings > 2**10:
            raise CorruptStreamError("flow: it ends early, or has impossible sizes")
        most = 8 * variables + couplings * (32 + 2 * 8 * variables + 2 * hidden * variables + 8 * hidden)
        if most > max_bytes:
            raise CorruptStreamError(f"flow: its {most} bytes are more than max_bytes={max_bytes}")
        try:
            expander = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
            plain = expander.decompress(body[PREFIX.size :], most + 1)
            return cls._read(plain, variables, couplings, hidden), data[end:]
        except (lzma.LZMAError, ValueError) as error:
            raise CorruptStreamError(f"flow: {error}") from None

    @classmethod
    def _read(cls, plain: bytes, variables: int, couplings: int, hidden: int) -> FrozenFlow:
        at = 0

        def take(count: int, dtype: np.dtype) -> np.ndarray:
            nonlocal at
            if len(plain) - at < count * dtype.itemsize:
                raise ValueError("it ends early")
            found = np.frombuffer(plain, dtype, count, at)
            at += count * dtype.itemsize
            return found.astype(dtype.newbyteorder("="))

        categories = take(variables, WIDE)
        if (categories < 1).any() or (categories > 2**16).any():
            raise ValueError("alphabets of 1 to 65536 expected")
        found = []
        for _ in range(couplings):
            given, units, first, second = take(4, WIDE).tolist()
            if not (0 <= given <= variables and 0 <= units <= hidden):
                raise ValueError("a coupling has an impossible size")
            moved = variables - given
            inside, outside = take(given, WIDE), take(moved, WIDE)
            A, B = take(units * given, NARROW).reshape(units, given), take(moved * units, NARROW).reshape(moved, units)
            found.append(Coupling(inside, outside, A, take(units, WIDE), B, take(moved, WIDE), first, second))
        if at != len(plain):
            raise ValueError("bytes are left over")
        return cls(categories.tolist(), found)
