"""Reads containers: any items, by decoding only their chunks. Damage is detected, reported, and can be skipped."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .._core import checks
from .._core.errors import CorruptStreamError, ModelMismatchError, message
from . import format as parts
from ._bytes import Bytes, Readable
from ._recover import find_chunks, table
from .layout import whole
from .writer import Coder

MOST_BYTES = 2**31
GROUP = 16  # chunks that are decoded together, so that threads have work
LoadModel = Callable[[bytes], Coder]


@dataclass
class Damage:
    """The parts of a file that could not be read.

    Attributes:
        chunks: for each damaged chunk its number, its first item, the item after its last, and the reason.
        kept: (n,) int64, index in the file of each returned item.

    Example:
        >>> from probkernels.codec import Damage
        >>> Damage().chunks
        []
    """

    chunks: list[tuple[int, int, int, str]] = field(default_factory=list)
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class CodecReader:
    """Reads a container. ``reader[a:b]`` decodes only the chunks that hold these items.

    Args:
        source: a path, the bytes of a file, or a seekable binary file. Threads and forked processes may share a reader
            of a path or of bytes, and it can be pickled. Use a reader of an open file in one process only.
        coder: model that the file was written with. None uses the model in the file.
        load_model: function that makes a coder from the bytes of an embedded model.
        max_bytes: largest size of items decoded at once, of the index and of the model. Checked before memory is
            allocated.
        recover: whether to search for chunks if the index is damaged or cut off. The attribute ``recovered`` says
            whether that happened. The reader then has the items up to the last chunk found; later ones are unknown.

    Raises:
        TypeError: ``source`` or ``max_bytes`` has the wrong type.
        ValueError: ``max_bytes`` is below 1.
        CorruptStreamError: the file is damaged or is not a container.
        ModelMismatchError: the file was written with another model, or no model is known.
        OSError: the file cannot be read.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> from probkernels.codec import PCCodec
        >>> x = torch.randint(0, 4, (100, 6)).byte().numpy()
        >>> codec = PCCodec(factorized(torch.tensor(x).long(), categories=4))
        >>> with codec.open(codec.compress(x, chunk_items=10)) as reader:
        ...     len(reader), len(reader.items_of_chunks), bool((reader[35:45] == x[35:45]).all())
        (100, 10, True)
    """

    def __init__(
        self,
        source: Readable,
        coder: Coder | None = None,
        *,
        load_model: LoadModel | None = None,
        max_bytes: int = MOST_BYTES,
        recover: bool = False,
    ) -> None:
        self.max_bytes, self._recover = whole("CodecReader", "max_bytes", max_bytes, 1), recover
        self._bytes = Bytes("CodecReader", source)
        try:
            self._start(coder, load_model, recover)
        except BaseException:
            self.close()
            raise

    def _start(self, coder: Coder | None, load_model: LoadModel | None, recover: bool) -> None:
        self.file_bytes = self._bytes.size
        size = parts.Header.size(self._read(0, min(parts.PREFIX_BYTES, self.file_bytes), "header"))
        self.header = parts.Header.unpack(self._read(0, size, "header"))
        self.layout, self._note_at, self._model_at = self.header.layout, size, size + self.header.note_bytes
        self._find(self._model_at + self.header.model_bytes, recover)
        self._firsts = np.concatenate([[0], np.cumsum(self.items_of_chunks)])
        self.coder = coder if coder is not None else self._embedded(load_model)
        ours = self.coder.model_id[: parts.ID_BYTES]
        if ours != self.header.model_id or tuple(self.coder.categories) != self.header.categories:
            theirs = self.header.model_id.hex()
            raise ModelMismatchError(f"the file was written with model {theirs}, not with {ours.hex()}")

    def _find(self, start: int, recover: bool) -> None:
        """Finds the chunks: from the index, or with ``recover`` by searching for them."""
        self.recovered = False
        self._crcs: np.ndarray | None = None
        try:
            self._read_index(start)
        except CorruptStreamError:
            if not recover:
                raise
            self.recovered, self._crcs = True, None  # those of an index that does not fit
            found = find_chunks(self._bytes, start, self.header, self.max_bytes)
            self._offsets, self._sizes, self.items_of_chunks = table(found, self.header.chunk_items)

    def _read_index(self, start: int) -> None:
        trailer_at = max(0, self.file_bytes - parts.TRAILER_BYTES)
        size = parts.index_bytes(self._read(trailer_at, self.file_bytes - trailer_at, "trailer"))
        if size > trailer_at - start:
            raise CorruptStreamError("index: it does not fit into the file")
        end = self._read(trailer_at - size, size + parts.TRAILER_BYTES, "index")
        items, self._sizes, self._crcs = parts.unpack_end(end, self.header.file_id)
        per, chunks = self.header.chunk_items, len(self._sizes)
        if chunks != -(-items // per):
            raise CorruptStreamError("index: the chunks' items do not add up")
        ends = start + np.cumsum(self._sizes)
        possible = bool(((self._sizes >= 1) & (self._sizes <= self.file_bytes)).all())
        if not possible or (ends[-1] if chunks else start) != trailer_at - size:
            raise CorruptStreamError("index: the chunks do not follow each other")
        self._offsets, self.items_of_chunks = ends - self._sizes, np.full(chunks, per)
        self.items_of_chunks[chunks - 1 :] -= chunks * per - items

    def _embedded(self, load_model: LoadModel | None) -> Coder:
        if not self.header.model_bytes:
            raise ModelMismatchError(f"the file needs model {self.header.model_id.hex()}, which it has not")
        if load_model is None:
            raise ModelMismatchError("the file carries its model. Hint: open it with probkernels.codec.open")
        return load_model(self.model())

    def note(self) -> dict[str, object]:
        """The note that the writer was given, empty if none."""
        return parts.unpack_note(self._read(self._note_at, self.header.note_bytes, "note"), self.max_bytes)

    def model(self) -> bytes:
        """Bytes of the embedded model file. Empty if the file holds none."""
        return self._read(self._model_at, self.header.model_bytes, "model")

    def _read(self, offset: int, size: int, part: str) -> bytes:
        """Reads bytes of the file, after checking that it has them."""
        if offset + size > self.file_bytes:
            raise CorruptStreamError(f"{part}: the file ends inside it")
        if size > self.max_bytes:
            raise CorruptStreamError(f"{part}: its {size} bytes are more than max_bytes={self.max_bytes}")
        data = self._bytes.read(offset, size)
        if len(data) != size:
            raise CorruptStreamError(f"{part}: the file ends inside it")
        return data

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, key: int | slice) -> np.ndarray:
        """Items (n, *shape) for a slice, or one item (*shape) for an index.

        Raises:
            IndexError: there is no such item.
            TypeError: the index is neither a whole number nor a slice.
            CorruptStreamError: a chunk is damaged. The message gives its number.
        """
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            places = range(start, stop, step)
            if not places:
                return np.zeros((0, *self.layout.shape), self.layout.dtype)
            low, high = min(places), max(places) + 1
            items = self._items(low, high, None)
            return items if step == 1 else items[[place - low for place in places]]
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            hint = "items[[1, 2]] of an array: take each, or the slice that holds them"
            raise TypeError(message("CodecReader", "key", "a whole number or a slice", checks.describe(key), hint))
        if not -len(self) <= key < len(self):
            raise IndexError(message("CodecReader", "key", f"a place among {len(self)} items", str(key)))
        place = int(key) % len(self)
        return self._items(place, place + 1, None)[0]

    def read(self, on_error: str = "raise") -> tuple[np.ndarray, Damage]:
        """Reads all items. Returns them and the damage.

        Args:
            on_error: ``"raise"``, or ``"skip"`` to leave out the items of damaged chunks.

        Raises:
            ValueError: ``on_error`` is something else, or the items need more than ``max_bytes``.
            CorruptStreamError: a chunk is damaged and ``on_error`` is ``"raise"``.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(message("CodecReader.read", "on_error", "'raise' or 'skip'", repr(on_error)))
        damage = Damage()
        items = self._items(0, len(self), damage if on_error == "skip" else None)
        lost = np.zeros(len(self), bool)
        for _, first, end, _ in damage.chunks:
            lost[first:end] = True
        damage.kept = np.flatnonzero(~lost)
        return items, damage

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields the items, a few chunks at a time. This reads a file of any size in bounded memory."""
        for first, end in self._groups():
            yield self._items(first, end, None)

    def test(self) -> Damage:
        """Decodes everything in bounded memory, compares checksums, and returns the damage."""
        damage, kept = Damage(), [np.zeros(0, np.int64)]
        for first, end in self._groups():
            before = len(damage.chunks)
            self._items(first, end, damage)
            sound = np.ones(end - first, bool)
            for _, low, high, _ in damage.chunks[before:]:
                sound[low - first : high - first] = False
            kept.append(first + np.flatnonzero(sound))
        damage.kept = np.concatenate(kept)
        return damage

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Item ranges (first, end) of chunks that are decoded together."""
        per_group = max(1, min(GROUP, self.max_bytes // max(1, self._chunk_cost(self.header.chunk_items))))
        for first in range(0, len(self.items_of_chunks), per_group):
            end = min(first + per_group, len(self.items_of_chunks))
            yield int(self._firsts[first]), int(self._firsts[end])

    def _chunk_cost(self, items: int) -> int:
        """Bytes that a number of items take: the items and their codes as int32."""
        layout = self.layout
        return items * (layout.item_bytes + 4 * layout.rows_per_item * layout.variables)

    def _items(self, low: int, high: int, damage: Damage | None) -> np.ndarray:
        """Items low .. high - 1. With ``damage``, items of damaged chunks are left out and reported there."""
        if (high - low) * self.layout.item_bytes > self.max_bytes:
            raise ValueError(
                message("CodecReader", "max_bytes", f">= {(high - low) * self.layout.item_bytes}, the items' size",
                        str(self.max_bytes), "read a slice, or .chunks()")
            )  # fmt: skip
        if low == high:
            return np.zeros((0, *self.layout.shape), self.layout.dtype)
        first, last = (int(np.searchsorted(self._firsts, at, "right")) - 1 for at in (low, high - 1))
        found = []
        for start in range(first, last + 1, GROUP):
            numbers = range(start, min(start + GROUP, last + 1))
            for number, items in zip(numbers, self._group(numbers, damage), strict=True):
                if items is not None:
                    begin = int(self._firsts[number])
                    found.append(items[max(0, low - begin) : high - begin])
        return np.concatenate(found) if found else np.zeros((0, *self.layout.shape), self.layout.dtype)

    def _group(self, numbers: range, damage: Damage | None) -> list[np.ndarray | None]:
        """The items of some chunks. None for a damaged chunk."""
        loaded: dict[int, tuple[parts.Head, bytes]] = {}
        faults: dict[int, CorruptStreamError] = {}
        for number in numbers:
            try:
                loaded[number] = self._payload(number)
            except CorruptStreamError as error:
                faults[number] = error
        items = self._decoded(loaded, faults)
        for number in sorted(faults):
            if damage is None:
                raise faults[number]
            first, end = int(self._firsts[number]), int(self._firsts[number + 1])
            damage.chunks.append((number, first, end, str(faults[number])))
        return [items.get(number) for number in numbers]

    def _payload(self, number: int) -> tuple[parts.Head, bytes]:
        part, at, size = f"chunk {number}", int(self._offsets[number]), int(self._sizes[number])
        if at < 0:
            raise CorruptStreamError(f"{part}: not found")
        if self._chunk_cost(int(self.items_of_chunks[number])) > self.max_bytes:
            items = self.items_of_chunks[number]
            raise CorruptStreamError(f"{part}: its {items} items need more than max_bytes={self.max_bytes}")
        data = self._read(at, size, part)
        head = parts.Head.unpack(data[: parts.MOST_HEAD], self.layout.item_bytes, part)
        expected = (number, self.items_of_chunks[number], size)
        if (head.number, head.items, head.length + head.size) != expected:
            raise CorruptStreamError(f"{part}: its head does not agree with the index")
        if not head.fits(data[: head.length], data[head.length :], self.header.file_id):
            raise CorruptStreamError(f"{part}: its CRC32C does not match")
        if number and self._crcs is not None and head.check != self._crcs[number - 1]:
            raise CorruptStreamError(f"{part}: not the one that the index was written for")
        return head, data[head.length :]

    def _decoded(
        self, loaded: dict[int, tuple[parts.Head, bytes]], faults: dict[int, CorruptStreamError]
    ) -> dict[int, np.ndarray]:
        """Items by chunk number. Chunks that cannot be decoded are added to the faults."""
        coded = [number for number, (head, _) in loaded.items() if head.kind == parts.CODED]
        try:
            found = self._coded(coded, loaded)
        except CorruptStreamError:  # one of them: each by itself shows which
            found = {}
            for number in coded:
                try:
                    found |= self._coded([number], loaded)
                except CorruptStreamError as error:
                    faults[number] = CorruptStreamError(f"chunk {number}: {error}")
        for number, (head, payload) in loaded.items():
            if head.kind != parts.CODED:
                try:
                    found[number] = self._plain(number, head, payload)
                except CorruptStreamError as error:
                    faults[number] = error
        for number, items in list(found.items()):
            if not loaded[number][0].decodes_to(items.tobytes(), self.header.file_id):
                del found[number]
                faults[number] = CorruptStreamError(f"chunk {number}: the decoded items do not match their checksum")
        return found

    def _coded(self, numbers: list[int], loaded: dict[int, tuple[parts.Head, bytes]]) -> dict[int, np.ndarray]:
        if not numbers:
            return {}
        counts = [loaded[number][0].items for number in numbers]
        rows = [count * self.layout.rows_per_item for count in counts]
        codes = self.coder.decode([loaded[number][1] for number in numbers], rows, self.header.lanes)
        items = self.layout.items(codes)
        return dict(zip(numbers, np.split(items, np.cumsum(counts)[:-1]), strict=True))

    def _plain(self, number: int, head: parts.Head, payload: bytes) -> np.ndarray:
        size = head.items * self.layout.item_bytes
        if head.kind == parts.DEFLATE:
            inflater = zlib.decompressobj()
            try:
                payload = inflater.decompress(payload, size + 1)
            except zlib.error as error:
                raise CorruptStreamError(f"chunk {number}: {error}") from None
        if len(payload) != size:
            raise CorruptStreamError(f"chunk {number}: expected {size} bytes, got {len(payload)} or more")
        return np.frombuffer(payload, self.layout.dtype).reshape(head.items, *self.layout.shape).copy()

    def close(self) -> None:
        """Closes the file if the reader opened it."""
        self._bytes.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies open the path or the bytes again.

        Raises:
            TypeError: the reader was given an open file.
        """
        if self._bytes.source is None:
            raise TypeError(
                message("CodecReader", "source", "a path or bytes, so that another process can open it",
                        "an open file")
            )  # fmt: skip
        facts = self.file_bytes, self.header
        return _reopened, (type(self), self._bytes.source, self.coder, self.max_bytes, self._recover, facts)

    def __enter__(self) -> CodecReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reopened(
    kind: type[CodecReader], source: Path | bytes, coder: Coder, max_bytes: int, recover: bool,
    facts: tuple[int, parts.Header],
) -> CodecReader:  # fmt: skip
    reader = kind(source, coder, max_bytes=max_bytes, recover=recover)
    if (reader.file_bytes, reader.header) != facts:
        reader.close()
        raise CorruptStreamError("the file has changed since its reader was pickled")
    return reader
