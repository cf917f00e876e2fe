"""``probkernels train | compress | decompress | inspect``: files of arrays, images and tables without loss."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer
from tqdm import tqdm

from ..codec import CodecReader, PCCodec, classics, format
from ..codec import open as open_container
from ..codec import train as train_codec
from . import _sources as sources
from .reproduce import INTERRUPTED

Input = Annotated[Path, typer.Argument(metavar="IN", help=".npy, .npz, .csv, .tsv, an image, or a folder of images.")]
Key = Annotated[str | None, typer.Option("--key", help="The array to take of an .npz with several.")]


@contextmanager
def _errors(hint: str = "") -> Iterator[None]:
    """Errors of files and arguments as one line, without a traceback."""
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(f"interrupted{hint}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


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
) -> None:
    """Fit a model to data like those to be compressed. Interrupted, the same command goes on where it was."""
    checkpoint = model.with_name(f"{model.name}.checkpoint")
    with _errors(". Run the same command to go on"):
        items = sources.read(source, key)
        values = items.model_note.get("values")
        sizes: Any = categories if values is None else [len(column) + 1 for column in values]
        trained = train_codec(
            items.whole(), latents=latents, tile=_tile(tile), categories=sizes, epochs=epochs, most_rows=rows,
            seed=seed, checkpoint=checkpoint, progress=sys.stderr.isatty(), note=items.model_note,
        )  # fmt: skip
        trained.save(model)
        checkpoint.unlink(missing_ok=True)
    print(f"{model}: {len(trained.to_bytes()):,} bytes, {trained.program.variables} variables, latents of {latents}")


def _tile(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--tile: expected two sizes such as 32x32, got '{text}'")
    return int(sides[0]), int(sides[1])


def compress(
    source: Input,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    model: Annotated[Path, typer.Option("--model", help="A model file that `train` wrote.")],
    embed: Annotated[bool, typer.Option("--embed", help="Carry the model along in the file.")] = False,
    chunk_items: Annotated[int | None, typer.Option(help="Items decoded together. [default: about 512 kB]")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also measure other compressors; slow.")] = False,
    key: Key = None,
) -> None:
    """Compress an array, images or a table without loss."""
    with _errors():
        codec = PCCodec.load(model)
        items = sources.read(source, key, codec.note)
        layout = codec.layout(items.shape, items.dtype)
        chunk = min(format.default_chunk(layout) if chunk_items is None else chunk_items, max(1, items.count))
        bar = tqdm(total=items.count, unit="item", disable=None, desc="compress")
        with (
            codec.writer(target, items.shape, items.dtype, chunk_items=chunk, embed=embed, note=items.note) as writer,
            bar,
        ):
            for block in items.blocks(chunk):
                writer.append(block)
                bar.update(len(block))
        values = items.count * math.prod(items.shape)
        alone = len(codec.to_bytes())
        print(f"{target}: {_size(writer.bytes, values, items.bytes)}")
        if not embed:
            print(f"with the model: {_size(writer.bytes + alone, values, items.bytes)}")
        if compare and items.count:
            _compare(items, writer.bytes - alone * embed, alone, values)


def _per_value(size: int, values: int) -> str:
    return f"{8 * size / values:.4f} bits a value" if values else "no values"


def _size(size: int, values: int, before: int) -> str:
    return f"{size:,} bytes, {_per_value(size, values)}, {before / size:.2f} times smaller than {before:,} bytes"


def _compare(items: sources.Source, ours: int, model: int, values: int) -> None:
    """Other compressors, and from how many such items on ours with its model is the smallest."""
    print("\nother compressors on the same values:")
    for name, size in sorted(classics.sizes(items.whole()).items(), key=lambda pair: pair[1]):
        gain = (size - ours) / items.count
        even = f"the model pays from {math.ceil(model / gain):,} items on" if gain > 0 else "smaller than ours"
        print(f"  {name:30} {size:>14,} bytes  {_per_value(size, values)}  {even}")


def decompress(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file that `compress` wrote.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".npy, .npz, .csv, .tsv, or a folder for images.")],
    model: Annotated[Path | None, typer.Option("--model", help="Its model, unless the file carries it.")] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out damaged items; exit code 1 if there are any.")
    ] = False,
    recover: Annotated[bool, typer.Option("--recover", help="Look for the items of a file whose end is lost.")] = False,
) -> None:
    """Write what was compressed, as an array, as images or as a table."""
    with _errors(), _open(source, model, recover) as reader:
        note, model_note = reader.note(), _model_note(reader, model)
        blocks, kept, lost = _progressing(reader), np.arange(len(reader)), 0
        if skip or reader.recovered:
            found, damage = reader.read(on_error="skip")
            blocks, kept, lost = iter([found]), damage.kept, len(reader) - len(found)
            for number, first, end, reason in damage.chunks:
                print(f"items {first} to {end - 1} are lost: chunk {number}: {reason}", file=sys.stderr)
        dtype = np.dtype(reader.layout.dtype)
        sources.write(target, blocks, reader.layout.shape, dtype, len(kept), note, model_note, kept)
        print(f"{target}: {len(kept):,} items" + (f", {lost:,} are lost" if lost else ""))
    raise typer.Exit(int(lost > 0))


def _open(source: Path, model: Path | None, recover: bool) -> CodecReader:
    if model is None:
        return open_container(source, recover=recover)
    return PCCodec.load(model).open(source, recover=recover)


def _model_note(reader: CodecReader, model: Path | None) -> dict[str, Any]:
    return (PCCodec.from_bytes(reader.model()) if model is None else PCCodec.load(model)).note


def _progressing(reader: CodecReader) -> Iterator[np.ndarray]:
    with tqdm(total=len(reader), unit="item", disable=None, desc="decompress") as bar:
        for block in reader.chunks():
            yield block
            bar.update(len(block))


def inspect(source: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed file, or a model.")]) -> None:
    """Say what is in a compressed file or a model, without decoding it."""
    with _errors():
        with source.open("rb") as file:
            is_model = file.read(8) in PCCodec.MAGICS
        facts = _model_facts(source) if is_model else _container_facts(source)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name + ':':{width + 1}} {value}")


def _model_facts(path: Path) -> dict[str, str]:
    codec = PCCodec.load(path)
    sizes = codec.program.categories
    low, high = min(sizes), max(sizes)
    return {
        "model": codec.model_id.hex(),
        "bytes": f"{path.stat().st_size:,}",
        "variables": str(codec.program.variables),
        "values of each": str(low) if low == high else f"{low} to {high}",
        "code 0 is": str(codec.offset),
        "tile": "x".join(map(str, codec.tile)) if codec.tile else "none",
        "of": str(codec.note.get("kind", "arrays")),
    }


def _container_facts(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = format.Header.size(file.read(format.PREFIX_BYTES))
        file.seek(0)
        header = format.Header.unpack(file.read(size))
    unread: Any = SimpleNamespace(model_id=header.model_id, categories=header.categories)
    with CodecReader(path, unread, recover=True) as reader:
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
