"""Compresses arrays to files with a circuit as the model, and decompresses them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .._core import checks, digests, outputs
from .._core.errors import CorruptStreamError, message
from ..circuits import Circuit
from . import frozen_flow, model_file
from ._bytes import Readable
from .coder import decode, encode
from .format import default_chunk, default_lanes, note_text
from .frozen_flow import FrozenFlow
from .integer_flow import IntegerFlow
from .layout import Layout, as_array, dtype_of, sizes, whole
from .program import Program
from .reader import MOST_BYTES, CodecReader
from .writer import CodecWriter


class ProgramCoder:
    """A compiled circuit as a coder, the interface that the container uses.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> from probkernels.codec import Program, ProgramCoder
        >>> coder = ProgramCoder(Program.from_circuit(factorized(torch.randint(0, 4, (100, 6)), categories=4)))
        >>> len(coder.model_id), len(coder.categories)
        (32, 6)
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.model_id, self.categories = program.model_id, program.categories

    def encode(self, codes: np.ndarray, rows_per_chunk: int, lanes: int) -> list[bytes]:
        """Encodes codes (N, V) int32, one payload for each chunk."""
        return encode(self.program, torch.from_numpy(codes), rows_per_chunk, lanes)

    def decode(self, payloads: Sequence[bytes], rows: Sequence[int], lanes: int) -> np.ndarray:
        """Decodes payloads to codes (sum of rows, V) int32."""
        return decode(self.program, payloads, rows, lanes).numpy()


class FlowCoder(ProgramCoder):
    """A compiled circuit over the latents of an integer flow, as a coder.

    Raises:
        ValueError: the circuit and the flow have different alphabets.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized
        >>> from probkernels.codec import FlowCoder, IntegerFlow, Program
        >>> program = Program.from_circuit(factorized(torch.randint(0, 4, (100, 6)), categories=4))
        >>> len(FlowCoder(program, IntegerFlow([4] * 6).freeze()).model_id)
        32
    """

    def __init__(self, program: Program, flow: FrozenFlow) -> None:
        super().__init__(program)
        if flow.categories.tolist() != program.categories:
            wanted = f"the circuit's alphabets {program.categories[:4]}..."
            raise ValueError(message("FlowCoder", "flow", wanted, f"{flow.categories[:4].tolist()}..."))
        self.flow = flow
        self.model_id = digests.identity(program.model_id, flow.flow_id)

    def encode(self, codes: np.ndarray, rows_per_chunk: int, lanes: int) -> list[bytes]:
        """Encodes codes (N, V) int32, one payload for each chunk."""
        return super().encode(self.flow.encode(codes), rows_per_chunk, lanes)

    def decode(self, payloads: Sequence[bytes], rows: Sequence[int], lanes: int) -> np.ndarray:
        """Decodes payloads to codes (sum of rows, V) int32."""
        return self.flow.decode(super().decode(payloads, rows, lanes))


class PCCodec:
    """Lossless compression of integer arrays with a circuit as the model.

    The constructor compiles the circuit to integer tables and float32 weights, so later training of the circuit has no
    effect here. The compressed bytes are the same on every machine.

    Args:
        model: a structured-decomposable circuit with discrete variables, or a :class:`Program`.
        offset: the value that has code 0, for example -32768 for int16 data.
        tile: (height, width) of the images that the model describes. Larger images are cut into tiles.
        flow: integer flow from items to the latents that the circuit models. None if the circuit models the items.
        note: JSON data to store in the model file.

    Raises:
        TypeError: ``model`` is neither a circuit nor a program, or another argument has the wrong type.
        ValueError: the circuit cannot be compiled, or the flow has different alphabets.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import PCCodec
        >>> x = torch.randint(0, 4, (100, 6)).byte().numpy()
        >>> codec = PCCodec(hclt(torch.tensor(x).long(), latents=3))
        >>> blob = codec.compress(x)
        >>> bool((codec.decompress(blob) == x).all())
        True
    """

    MAGICS = (model_file.MAGIC, frozen_flow.MAGIC)  # what model files begin with

    def __init__(
        self, model: Circuit | Program, *, offset: int = 0, tile: tuple[int, int] | None = None,
        flow: FrozenFlow | None = None, note: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        if flow is not None and not isinstance(flow, FrozenFlow):
            hint = "flow.freeze()" if isinstance(flow, IntegerFlow) else ""
            raise TypeError(message("PCCodec", "flow", "a FrozenFlow", checks.describe(flow), hint))
        self.program = model if isinstance(model, Program) else Program.from_circuit(model)
        self.coder = ProgramCoder(self.program) if flow is None else FlowCoder(self.program, flow)
        self.offset, self.tile, self.flow = whole("PCCodec", "offset", offset), _checked_tile(tile), flow
        note_text("PCCodec", note)  # what JSON cannot hold would be met when the model is saved
        self.note = dict(note or {})
        self._packed: bytes | None = None

    @property
    def model_id(self) -> bytes:
        """32 bytes that identify the model. Only a codec with the same id can read its files."""
        return self.coder.model_id

    def layout(self, shape: Sequence[int], dtype: object = "uint8") -> Layout:
        """The layout of items of the given shape and dtype."""
        return Layout(sizes("PCCodec", "shape", shape), dtype_of(dtype), self.offset, self.tile)

    def to_bytes(self) -> bytes:
        """The content of a model file, as bytes."""
        if self._packed is None:
            facts: dict[str, object] = {"offset": self.offset, "tile": list(self.tile) if self.tile else None}
            facts |= {"note": self.note} if self.note else {}
            self._packed = b"" if self.flow is None else self.flow.to_bytes()
            self._packed += model_file.pack(self.program.arrays(), facts)
        return self._packed

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = MOST_BYTES) -> PCCodec:
        """Makes a codec from the content of a model file.

        Raises:
            TypeError: ``data`` are not bytes, or ``max_bytes`` is not a number.
            CorruptStreamError: the content is damaged or exceeds ``max_bytes`` when decompressed.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            hint = "PCCodec.load(path)" if isinstance(data, (str, Path)) else ""
            raise TypeError(message("PCCodec.from_bytes", "data", "bytes", checks.describe(data), hint))
        max_bytes = whole("PCCodec.from_bytes", "max_bytes", max_bytes, 1)
        flow, packed = None, (data := bytes(data))
        if data.startswith(frozen_flow.MAGIC):
            flow, data = FrozenFlow.from_bytes(data, max_bytes)
        arrays, facts = model_file.unpack(data, max_bytes)
        offset, tile, note = facts.get("offset"), facts.get("tile"), facts.get("note", {})
        fine = tile is None or (
            isinstance(tile, list) and len(tile) == 2 and all(type(v) is int and v > 0 for v in tile)
        )
        if type(offset) is not int or not fine or not isinstance(note, dict):
            raise CorruptStreamError("model: impossible offset, tile or note")
        program = Program.from_arrays(arrays)
        if flow is not None and flow.categories.tolist() != program.categories:
            raise CorruptStreamError("model: the circuit and the flow have other alphabets")
        size = (tile[0], tile[1]) if isinstance(tile, list) else None
        codec = cls(program, offset=offset, tile=size, flow=flow, note=note)
        codec._packed = packed  # packing takes seconds
        return codec

    def save(self, path: str | Path) -> None:
        """Writes a model file. The write is atomic and replaces an existing file."""
        outputs.write_bytes(_path("PCCodec.save", path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, *, max_bytes: int = MOST_BYTES) -> PCCodec:
        """Reads a model file.

        Raises:
            CorruptStreamError: the file is damaged.
            OSError: the file cannot be read.
        """
        return cls.from_bytes(_path("PCCodec.load", path).read_bytes(), max_bytes=max_bytes)

    def writer(
        self, target: str | Path | BinaryIO, shape: Sequence[int] | None = None, dtype: object = "uint8",
        *, chunk_items: int | None = None, lanes: int | None = None, embed: bool = False,
        note: Mapping[str, object] | None = None, verify: bool = False,
    ) -> CodecWriter:  # fmt: skip
        """A writer for items of the given shape (flat rows by default) and dtype. See :class:`CodecWriter` for
        ``target``, ``note`` and ``verify``, and :meth:`compress` for the other arguments.
        """
        layout = self.layout((self.program.variables,) if shape is None else shape, dtype)
        model = self.to_bytes() if embed else b""
        return CodecWriter(
            target, self.coder, layout, chunk_items=chunk_items, lanes=lanes, model=model, note=note, verify=verify
        )

    def compress(
        self, items: object, *, chunk_items: int | None = None, lanes: int | None = None, embed: bool = False,
        verify: bool = False,
    ) -> bytes:  # fmt: skip
        """Compresses an integer array or CPU tensor to the bytes of a container.

        Args:
            items: (N, ...). Each item has the model's variables, or is an image if the codec has a tile.
            chunk_items: number of items in a chunk. A reader decodes whole chunks. About 512 kB by default.
            lanes: number of rows coded side by side. By default 16, or fewer for short inputs.
            embed: whether the file holds its model.
            verify: whether to decode each chunk and compare it with its items. Decoding takes about as long as
                encoding.

        Raises:
            TypeError: the items are not integers.
            ValueError: the items have the wrong size.
            CorruptStreamError: with ``verify``, a chunk does not decode to its items.
        """
        array, file = as_array("PCCodec.compress", items), io.BytesIO()
        if lanes is None and array.ndim:
            layout = self.layout(array.shape[1:], array.dtype)
            most = (
                default_chunk(layout) if chunk_items is None else whole("PCCodec.compress", "chunk_items", chunk_items)
            )
            together = min(len(array), most)
            lanes = default_lanes(together * layout.rows_per_item * layout.variables)
        settings = {"chunk_items": chunk_items, "lanes": lanes, "verify": verify}
        with self.writer(file, array.shape[1:], array.dtype, embed=embed, **settings) as writer:  # type: ignore[arg-type]
            writer.append(array)
        return file.getvalue()

    def decompress(self, blob: Readable, *, max_bytes: int = MOST_BYTES) -> np.ndarray:
        """Decompresses the items of a container.

        Raises:
            CorruptStreamError: the container is damaged. :meth:`CodecReader.read` can skip damaged chunks.
            ModelMismatchError: the container was written with another model.
            ValueError: the items need more than ``max_bytes``.
        """
        return self.open(blob, max_bytes=max_bytes)[:]

    def open(self, source: Readable, *, max_bytes: int = MOST_BYTES, recover: bool = False) -> CodecReader:
        """Opens a container for random access by slices. See :class:`CodecReader`."""
        return CodecReader(source, self.coder, max_bytes=max_bytes, recover=recover)


def _checked_tile(tile: object) -> tuple[int, int] | None:
    if tile is None:
        return None
    found = sizes("PCCodec", "tile", tile)
    if len(found) != 2 or min(found) < 1:
        raise ValueError(message("PCCodec", "tile", "two sizes >= 1", str(tile)))
    return found[0], found[1]


def _path(op: str, path: object) -> Path:
    if not isinstance(path, (str, Path)):
        hint = "to_bytes() and from_bytes() are for files that are open"
        raise TypeError(message(op, "path", "a path", checks.describe(path), hint))
    return Path(path)


def open(source: Readable, *, max_bytes: int = MOST_BYTES, recover: bool = False) -> CodecReader:
    """Opens a container that holds its model. With ``recover``, also one whose index is damaged or missing.

    Raises:
        CorruptStreamError: the file is damaged.
        ModelMismatchError: the file holds no model, or not the model it was written with.

    Example:
        >>> import torch
        >>> from probkernels import codec
        >>> from probkernels.circuits import factorized
        >>> x = torch.randint(0, 4, (100, 6)).byte().numpy()
        >>> blob = codec.PCCodec(factorized(torch.tensor(x).long(), categories=4)).compress(x, embed=True)
        >>> bool((codec.open(blob)[10:12] == x[10:12]).all())
        True
    """
    return CodecReader(
        source, load_model=lambda data: PCCodec.from_bytes(data, max_bytes=max_bytes).coder, max_bytes=max_bytes,
        recover=recover,
    )  # fmt: skip
