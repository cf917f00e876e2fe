"""``probkernels train | compress | decompress | test | inspect``: files of arrays, images and tables without loss."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, BinaryIO

import numpy as np
import typer
from tqdm import tqdm

from .._core import outputs
from ..codec import CodecReader, Damage, PCCodec, classics, format
from ..codec import open as open_container
from ..codec import train as train_codec
from . import _sources as sources
from ._targets import Force, claim, errors, tell

Input = Annotated[
    Path, typer.Argument(metavar="IN", help=".npy, .npz, .csv, .tsv, an image, a folder of images, or -.")
]
MOST_WHOLE = 4096  # values of an image that is modelled as a whole by itself
TILE = (8, 8)
Key = Annotated[str | None, typer.Option("--key", help="The array to take of an .npz with several.")]


def train(
    source: Input,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file to write, e.g. MODEL.pcm.")],
    latents: Annotated[int, typer.Option(help="States of a latent: more compress better, and cost time.")] = 16,
    epochs: Annotated[int | None, typer.Option(help="Passes of EM. [default: 60 for few rows, 20 for many]")] = None,
    tile: Annotated[str | None, typer.Option(metavar="HxW", help="Cut images into tiles of this size.")] = None,
    categories: Annotated[int | None, typer.Option(help="Codes of a value. [default: as the data has]")] = None,
    rows: Annotated[int, typer.Option(help="Rows, or tiles, to learn from, chosen at random.")] = 100_000,
    key: Key = None,
    seed: Annotated[int, typer.Option(help="Of the choice of rows and of the parameters.")] = 0,
    flow: Annotated[bool, typer.Option("--flow", help="An integer flow under the model, for photos; slow.")] = False,
    force: Force = False,
) -> None:
    """Fit a model to data like those to be compressed. Interrupted, the same command goes on where it was."""
    stream = outputs.is_stream(model)
    checkpoint = None if stream else model.with_name(f"{model.name}.checkpoint")
    with errors("" if stream else ". Run the same command to go on"):
        claim(model, [source], force)
        sides = _tile(tile)
        items = sources.read(source, key)
        claim(model, items.files, force)
        if checkpoint is not None:
            claim(checkpoint, [source, *items.files], force=True)
        values = items.model_note.get("values")
        sizes: Any = categories if values is None else [len(column) + 1 for column in values]
        trained = train_codec(
            items.whole(), latents=latents, tile=sides or _usual_tile(items), categories=sizes, epochs=epochs,
            most_rows=rows, seed=seed, checkpoint=checkpoint, progress=sys.stderr.isatty(), note=items.model_note,
            flow=flow,
        )  # fmt: skip
        trained.save(model)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    facts = f"{trained.program.variables} variables, latents of {latents}"
    tell(model, f"{model}: {len(trained.to_bytes()):,} bytes, {facts}")


def _usual_tile(items: sources.Source) -> tuple[int, int] | None:
    """The tiles of images that are too large for a model of the whole; None for other items."""
    variables = math.prod(items.shape)
    if items.note.get("kind") != "images" or variables <= MOST_WHOLE:
        return None
    said = f"images of {variables:,} values are cut into tiles of {TILE[0]}x{TILE[1]}"
    print(f"{said}: a model of a whole one would have as many variables (--tile HxW takes others)", file=sys.stderr)
    return TILE


def _tile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--tile: expected two sizes such as 32x32, got '{text}'")
    return int(sides[0]), int(sides[1])


def compress(
    source: Input,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; - is standard output.")],
    model: Annotated[Path, typer.Option("--model", help="A model file that `train` wrote.")],
    embed: Annotated[bool, typer.Option("--embed", help="Carry the model along in the file.")] = False,
    chunk_items: Annotated[int | None, typer.Option(help="Items decoded together. [default: about 512 kB]")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also measure other compressors; slow.")] = False,
    key: Key = None,
    verify: Annotated[bool, typer.Option(help="Decode what was coded and compare, before it is written.")] = True,
    force: Force = False,
) -> None:
    """Compress an array, images or a table without loss."""
    with errors():
        claim(target, [source, model], force)
        codec = PCCodec.load(model)
        items = sources.read(source, key, codec.note)
        claim(target, items.files, force)
        layout = codec.layout(items.shape, items.dtype)
        chunk = min(format.default_chunk(layout) if chunk_items is None else chunk_items, max(1, items.count))
        bar = tqdm(total=items.count, unit="item", disable=None, desc="compress")
        settings: dict[str, Any] = {"chunk_items": chunk, "embed": embed, "note": items.note, "verify": verify}
        with codec.writer(target, items.shape, items.dtype, **settings) as writer, bar:
            for block in items.blocks(chunk):
                writer.append(block)
                bar.update(len(block))
        values = items.count * math.prod(items.shape)
        alone, before = len(codec.to_bytes()), items.disk_bytes
        tell(target, f"{target}: {_size(writer.bytes, values, before)}")
        if not embed:
            tell(target, f"with the model: {_size(writer.bytes + alone, values, before)}")
        if compare and items.count:
            _compare(target, items, writer.bytes - alone * embed, alone, values)


def _per_value(size: int, values: int) -> str:
    return f"{8 * size / values:.4f} bits a value" if values else "no values"


def _size(size: int, values: int, before: int) -> str:
    """A size beside that of the files on disk."""
    if before >= size:
        ratio = f"{before / size:.2f} times smaller"
    else:
        ratio = f"{size / before:.2f} times larger" if before else "larger"
    return f"{size:,} bytes, {_per_value(size, values)}, {ratio} than the {before:,} bytes read"


def _compare(target: Path, items: sources.Source, ours: int, model: int, values: int) -> None:
    """Other compressors, and from how many such items on ours with its model is the smallest."""
    tell(target, "\nother compressors, of the files as they are:")
    found = {"the files as they are": items.disk_bytes}
    if items.files:
        content = b"".join(path.read_bytes() for path in items.files)
        found |= {name: len(compress(content)) for name, compress in classics.general().items()}
    if not items.files or items.note.get("kind") == "images":
        data = items.whole().tobytes()
        found |= {f"{name}, values alone": len(compress(data)) for name, compress in classics.general().items()}
    if items.note.get("kind") != "table":
        found |= classics.image_sizes(items.whole())
    for name, size in sorted(found.items(), key=lambda pair: pair[1]):
        gain = (size - ours) / items.count
        even = f"the model pays from {math.ceil(model / gain):,} items on" if gain > 0 else "smaller than ours"
        tell(target, f"  {name:30} {size:>14,} bytes  {_per_value(size, values)}  {even}")


def decompress(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file that `compress` wrote; - is standard input.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help=".npy, .npz, .csv, .tsv, -, a folder for images, or .png for one.")
    ],
    model: Annotated[Path | None, typer.Option("--model", help="Its model, unless the file carries it.")] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out damaged items; exit code 1 if there are any.")
    ] = False,
    recover: Annotated[bool, typer.Option("--recover", help="Look for the items of a file whose end is lost.")] = False,
    force: Force = False,
) -> None:
    """Write what was compressed, as an array, as images or as a table."""
    with errors():
        if target.is_dir():
            sources.check_folder(target)
        else:
            claim(target, [source, model], force)
    with errors(), _open(source, model, recover) as reader:
        note, model_note = reader.note(), _model_note(reader, model)
        blocks, kept, lost = _progressing(reader), np.arange(len(reader)), 0
        if skip or reader.recovered:
            found, damage = reader.read(on_error="skip")
            blocks, kept, lost = iter([found]), damage.kept, len(reader) - len(found)
            _tell_lost(damage)
        dtype = np.dtype(reader.layout.dtype)
        sources.write(target, blocks, reader.layout.shape, dtype, len(kept), note, model_note, kept)
        tell(target, f"{target}: {len(kept):,} items" + (f", {lost:,} are lost" if lost else ""))
    raise typer.Exit(int(lost > 0))


def _tell_lost(damage: Damage) -> None:
    for number, first, end, reason in damage.chunks:
        print(f"items {first} to {end - 1} are lost: chunk {number}: {reason}", file=sys.stderr)


def _content(path: Path) -> Path | bytes:
    """A file, or what comes from a pipe."""
    return sources.piped(path) if outputs.is_stream(path) else path


def _open(source: Path, model: Path | None, recover: bool) -> CodecReader:
    if model is None:
        return open_container(_content(source), recover=recover)
    return PCCodec.load(model).open(_content(source), recover=recover)


def _model_note(reader: CodecReader, model: Path | None) -> dict[str, Any]:
    return (PCCodec.from_bytes(reader.model()) if model is None else PCCodec.load(model)).note


def test(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed file, or a model; - is standard input.")],
    model: Annotated[Path | None, typer.Option("--model", help="Its model, unless the file carries it.")] = None,
) -> None:
    """Decode a file and compare its checksums, without writing anything; exit code 1 if it is damaged."""
    with errors():
        content = _content(source)
        if _start(content) in PCCodec.MAGICS:
            PCCodec.from_bytes(content if isinstance(content, bytes) else content.read_bytes())
            print(f"{source}: a whole model")
            return
        with PCCodec.load(model).open(content) if model else open_container(content) as reader:
            reader.note()
            damage = reader.test()
            _tell_lost(damage)
            lost = len(reader) - len(damage.kept)
            print(f"{source}: {len(damage.kept):,} items are whole" + (f", {lost:,} are lost" if lost else ""))
    raise typer.Exit(int(lost > 0))


def _start(content: Path | bytes) -> bytes:
    if isinstance(content, bytes):
        return content[:8]
    with content.open("rb") as file:
        return file.read(8)


def _progressing(reader: CodecReader) -> Iterator[np.ndarray]:
    with tqdm(total=len(reader), unit="item", disable=None, desc="decompress") as bar:
        for block in reader.chunks():
            yield block
            bar.update(len(block))


def inspect(source: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed file, or a model.")]) -> None:
    """Say what is in a compressed file or a model, without decoding it."""
    with errors():
        content = _content(source)
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            is_model = file.read(8) in PCCodec.MAGICS
            file.seek(0)
            facts = _model_facts(file.read()) if is_model else _container_facts(file)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name + ':':{width + 1}} {value}")


def _model_facts(data: bytes) -> dict[str, str]:
    codec = PCCodec.from_bytes(data)
    sizes = codec.program.categories
    low, high = min(sizes), max(sizes)
    return {
        "model": codec.model_id.hex(),
        "bytes": f"{len(data):,}",
        "variables": str(codec.program.variables),
        "values of each": str(low) if low == high else f"{low} to {high}",
        "code 0 is": str(codec.offset),
        "tile": "x".join(map(str, codec.tile)) if codec.tile else "none",
        "of": str(codec.note.get("kind", "arrays")),
    }


def _container_facts(file: BinaryIO) -> dict[str, str]:
    size = format.Header.size(file.read(format.PREFIX_BYTES))
    file.seek(0)
    header = format.Header.unpack(file.read(size))
    unread: Any = SimpleNamespace(model_id=header.model_id, categories=header.categories)
    with CodecReader(file, unread, recover=True) as reader:
        layout, values = reader.layout, len(reader) * math.prod(reader.layout.shape)
        shape = " x ".join(map(str, layout.shape)) or "one value"
        chunks = len(reader.items_of_chunks)
        where = f"in the file, {header.model_bytes:,} bytes" if header.model_bytes else "not in the file"
        return {
            "model": f"{header.model_id.hex()}, {where}",
            "bytes": f"{reader.file_bytes:,}, {_per_value(reader.file_bytes, values)}",
            "items": f"{len(reader):,} of {shape}, {np.dtype(layout.dtype)}",
            "tile": "x".join(map(str, layout.tile)) if layout.tile else "none",
            "code 0 is": str(layout.offset),
            "chunks": f"{chunks:,} of {header.chunk_items:,} items",
            "lanes": str(header.lanes),
            "of": str(reader.note().get("kind", "arrays")),
            "whole": "no: its end is lost; --recover finds the items" if reader.recovered else "yes",
        }
