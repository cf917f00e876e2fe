"""A stack coder for models whose next distribution depends on symbols already decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks, devices
from .._core.errors import CorruptStreamError, message
from .._core.formats.streams import LOWER
from ._rans import POP, PUSH
from .rans import PRECISION, as_index, check_cdf, check_index, check_precision, refuse_damage, refuse_symbols

__all__ = ["RansCoder"]


class RansCoder:
    """A rANS coder with one stack of symbols for each of B rows. ``pop`` returns the symbol that ``push`` added last.

    Each call may use other distributions. With equal distributions ``pop`` exactly inverts ``push``, and ``push``
    inverts ``pop``. So the coder suits autoregressive models, whose next distribution depends on earlier symbols, and
    bits-back coding.

    Args:
        rows: number of rows, B.
        precision: bits of all counts, 1 to 24.
        device: device of the symbols and counts.

    Raises:
        TypeError, ValueError: an argument is not a whole number or is out of range.

    Reference: Duda, "Asymmetric numeral systems", arXiv:1311.2540; Townsend, Bird and Barber, "Practical lossless
    compression with latent variables using bits back coding", ICLR 2019.

    Example:
        >>> import torch, probkernels as pk
        >>> cdf = pk.ops.quantize_cdf(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))  # of a symbol after 0, and after 1
        >>> coder, symbols = pk.ops.RansCoder(rows=2), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]], dtype=torch.int32)
        >>> for t in reversed(range(4)):  # the last first
        ...     coder.push(symbols[:, t], cdf[symbols[:, t - 1].long()] if t else cdf[0])
        >>> streams = coder.to_bytes()
        >>> sum(len(stream) for stream in streams)
        16
        >>> again, found = pk.ops.RansCoder.from_bytes(streams), []
        >>> for t in range(4):
        ...     found.append(again.pop(cdf[found[-1].long()] if t else cdf[0]))
        >>> torch.equal(torch.stack(found, 1), symbols) and again.empty
        True
    """

    def __init__(self, rows: int, precision: int = PRECISION, device: torch.device | str = "cpu") -> None:
        checks.integer("RansCoder", "rows", rows, 0)
        self.precision = check_precision("RansCoder", precision)
        self._states = torch.full((rows,), LOWER, dtype=torch.int64, device=device)
        self._words = torch.zeros(rows, 0, dtype=torch.int32, device=device)
        self._sizes = torch.zeros(rows, dtype=torch.int64, device=device)
        self._most = 0  # no row has more words

    def __repr__(self) -> str:
        return f"RansCoder(rows={self.rows}, precision={self.precision}, device='{self._states.device}')"

    @property
    def rows(self) -> int:
        """Number of rows, B."""
        return len(self._states)

    @property
    def empty(self) -> bool:
        """Whether every row equals that of a new coder: all pushed symbols have been popped."""
        return bool((self._states == LOWER).all() & (self._sizes == 0).all())

    @property
    def sizes(self) -> Tensor:
        """Number of bytes in each row's stream, (B,) int64."""
        return 8 + 4 * self._sizes

    def copy(self) -> RansCoder:
        """Another coder with the same content."""
        other = RansCoder(0, self.precision)
        other._states, other._words, other._sizes = (t.clone() for t in (self._states, self._words, self._sizes))
        other._most = self._most
        return other

    def push(self, symbols: Tensor, cdf: Tensor, *, index: Tensor | None = None) -> None:
        """Pushes symbols on the rows' stacks. If it raises, no row has changed.

        Args:
            symbols: (B,) or (B, N) int32. The last column is pushed first, so ``pop`` returns the columns in order.
            cdf: cumulative counts, int32. For symbols (B,): (K + 1,) or (B, K + 1). For symbols (B, N): see
                :func:`probkernels.ops.rans_encode`.
            index: row of the table ``cdf`` (T, K + 1) for each symbol, in the shape of ``symbols``. None without a
                table.

        Raises:
            TypeError: a dtype is wrong.
            ValueError: a shape is wrong, or a symbol or index is out of range or has no count.
        """
        op = "RansCoder.push"
        if not isinstance(symbols, Tensor) or symbols.dtype is not torch.int32:
            raise TypeError(message(op, "symbols", "an int32 tensor", checks.describe(symbols)))
        if symbols.dim() not in (1, 2) or len(symbols) != self.rows:
            wanted = f"shape ({self.rows},) or ({self.rows}, N)"
            raise ValueError(message(op, "symbols", wanted, f"shape {tuple(symbols.shape)}"))
        checks.same_device(op, "symbols", symbols, self._states, "device")
        block = symbols.unsqueeze(1) if symbols.dim() == 1 else symbols
        cdf, index, places = self._model(op, cdf, index, block.shape[1], symbols.dim() == 1)
        words, sizes, states = PUSH.call(block, cdf, places, self._states, self.precision)
        if bool((sizes < 0).any()):
            refuse_symbols(op, block, cdf, index, self.precision)
        n = block.shape[1]
        self._make_room(n)
        at = self._sizes.unsqueeze(1) + torch.arange(n, device=words.device)
        self._words.scatter_(1, at, words)  # what lies behind a row's end is overwritten later
        self._states, self._sizes, self._most = states, self._sizes + sizes, self._most + n

    def pop(self, cdf: Tensor, n: int | None = None, *, index: Tensor | None = None) -> Tensor:
        """Pops symbols from the rows' stacks. If it raises, no row has changed.

        Args:
            cdf: the ``cdf`` given to :meth:`push`.
            n: number of symbols to pop from each row. None pops one, without an axis for it.
            index: the ``index`` given to :meth:`push`.

        Returns:
            Symbols (B,) or (B, n) int32.

        Raises:
            TypeError: a dtype is wrong.
            ValueError: a shape, number or index is wrong.
            CorruptStreamError: a row cannot hold such symbols. The message names the row.
        """
        op = "RansCoder.pop"
        if n is not None:
            checks.integer(op, "n", n, 0)
        count = 1 if n is None else n
        cdf, index, places = self._model(op, cdf, index, count, n is None)
        given = (self._states, self._words, self._sizes)
        symbols, damage, states, sizes = POP.call(*given, cdf, places, count, self.precision)
        if bool(damage.any()):
            check_index(op, index, len(cdf))
            refuse_damage(op, damage)
        self._states, self._sizes = states, sizes
        return symbols.squeeze(1) if n is None else symbols

    def to_bytes(self) -> list[bytes]:
        """The stream of each row: 8 bytes of state, then the words from last to first, little-endian.

        After one push of fewer than 512 symbols these are the streams of :func:`probkernels.ops.rans_encode`.
        """
        states = self._states.cpu().numpy().astype("<i8")
        words, sizes = self._words.cpu().numpy().astype("<i4"), self._sizes.tolist()
        return [states[i].tobytes() + words[i, :size][::-1].tobytes() for i, size in enumerate(sizes)]

    @classmethod
    def from_bytes(
        cls, streams: Sequence[bytes], precision: int = PRECISION, device: torch.device | str = "cpu"
    ) -> RansCoder:
        """Makes a coder from the output of :meth:`to_bytes`.

        Raises:
            TypeError: a stream is not bytes.
            CorruptStreamError: no coder can have made a stream. The message names the row.
        """
        op = "RansCoder.from_bytes"
        if isinstance(streams, (bytes, bytearray, str)) or not isinstance(streams, Sequence):
            raise TypeError(message(op, "streams", "a list of bytes, one for each row", checks.describe(streams)))
        for row, stream in enumerate(streams):
            if not isinstance(stream, (bytes, bytearray)):
                raise TypeError(message(op, f"streams[{row}]", "bytes", checks.describe(stream)))
        coder = cls(len(streams), precision)
        coder._most = max((len(stream) // 4 for stream in streams), default=0)
        coder._words = torch.zeros(len(streams), coder._most, dtype=torch.int32)
        for row, stream in enumerate(streams):
            if len(stream) < 8 or len(stream) % 4:
                raise CorruptStreamError(f"{op}: row {row} has {len(stream)} bytes: 8 and a multiple of 4 expected")
            if int.from_bytes(stream[:8], "little") < LOWER:
                raise CorruptStreamError(f"{op}: row {row} has a wrong state")
            numbers = [int.from_bytes(stream[at : at + 4], "little", signed=True) for at in range(8, len(stream), 4)]
            coder._states[row] = int.from_bytes(stream[:8], "little", signed=True)
            coder._words[row, : len(numbers)] = torch.tensor(numbers[::-1], dtype=torch.int32)
            coder._sizes[row] = len(numbers)
        for name in ("_states", "_words", "_sizes"):
            setattr(coder, name, getattr(coder, name).to(device))
        return coder

    def _model(
        self, op: str, cdf: Tensor, index: Tensor | None, n: int, one: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Counts and index for blocks of symbols (B, n), in the form that the kernels take."""
        devices.refuse_waiting(op)
        if one and isinstance(index, Tensor) and index.dim() == 1:
            index = index.unsqueeze(1)
        elif one and index is None and isinstance(cdf, Tensor) and cdf.dim() == 2:
            cdf = cdf.unsqueeze(1)
        places = as_index(op, index, cdf, self.rows, n)
        check_cdf(op, cdf, self.rows, n, places, self.precision)
        checks.same_device(op, "cdf", cdf, self._states, "device")
        return cdf, index, places

    def _make_room(self, n: int) -> None:
        """Makes room for n more words in each row."""
        if self._most + n <= self._words.shape[1]:
            return
        self._most = int(self._sizes.max()) if self.rows else 0
        if self._most + n > self._words.shape[1]:
            more = max(n, self._words.shape[1], 16) + self._most + n - self._words.shape[1]
            self._words = torch.nn.functional.pad(self._words, (0, more))
