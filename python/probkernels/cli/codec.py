"""``probkernels train | compress | decompress | test | inspect``: files of arrays, images and tables without loss."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .._core import outputs
from .._core.interrupts import loading
from ._targets import Force, about, claim, errors, tell

Input = Annotated[
    Path, typer.Argument(metavar="IN", help=".npy, .npz, .csv, .tsv, an image, a folder of images, or -.")
]
Key = Annotated[str | None, typer.Option("--key", help="The array to use, if an .npz has several.")]


def train(
    source: Input,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file to write, e.g. MODEL.pcm.")],
    latents: Annotated[int, typer.Option(help="States of a latent: more compress better but take longer.")] = 16,
    epochs: Annotated[int | None, typer.Option(help="Passes of EM. [default: 60 for few rows, 20 for many]")] = None,
    tile: Annotated[str | None, typer.Option(metavar="HxW", help="Cut images into tiles of this size.")] = None,
    categories: Annotated[int | None, typer.Option(help="Number of distinct values. [default: from the data]")] = None,
    rows: Annotated[int, typer.Option(help="Number of random rows or tiles to train on.")] = 100_000,
    key: Key = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the choice of rows and the parameters.")] = 0,
    flow: Annotated[bool, typer.Option("--flow", help="An integer flow before the model, for photos; slow.")] = False,
    force: Force = False,
) -> None:
    """Fit a model to data like those to be compressed. After an interruption, repeat the command to resume."""
    stream = outputs.is_stream(model)
    checkpoint = None if stream else model.with_name(f"{model.name}.checkpoint")
    with errors("" if stream else ". Run the same command to go on", model):
        claim(model, [source], force)
        with loading():
            from ..codec import train as train_codec
            from . import _files as work
        sides = work.tile_of(tile)
        items = work.sources.read(source, key)
        claim(model, items.files, force)
        if checkpoint is not None:
            claim(checkpoint, [source, *items.files], force=True)
        values = items.model_note.get("values")
        if categories is not None and values is not None:
            raise ValueError(f"--categories: expected none for a table, whose columns have theirs, got {categories}")
        sizes: Any = categories if values is None else [len(column) + 1 for column in values]
        with about(source, "latents", "tile", "categories", "epochs", "most_rows", "seed"):
            trained = train_codec(
                items.whole(), latents=latents, tile=sides or work.usual_tile(items), categories=sizes, epochs=epochs,
                most_rows=rows, seed=seed, checkpoint=checkpoint, progress=sys.stderr.isatty(), note=items.model_note,
                flow=flow,
            )  # fmt: skip
        claim(model, [], force)  # once more: another command may have been quicker
        trained.save(model)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    facts = f"{trained.program.variables} variables, latents of {latents}"
    tell(model, f"{model}: {len(trained.to_bytes()):,} bytes, {facts}")


def compress(
    source: Input,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; - is standard output.")],
    model: Annotated[Path, typer.Option("--model", help="A model file that `train` wrote.")],
    embed: Annotated[bool, typer.Option("--embed", help="Store the model in the file.")] = False,
    chunk_items: Annotated[int | None, typer.Option(help="Items decoded together. [default: about 512 kB]")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also measure other compressors; slow.")] = False,
    key: Key = None,
    verify: Annotated[bool, typer.Option(help="Decode and compare everything before writing.")] = True,
    force: Force = False,
) -> None:
    """Compress an array, images or a table losslessly."""
    with errors(target=target):
        claim(target, [source, model], force)
        with loading():
            from . import _files as work
        codec = work.loaded(model)
        items = work.sources.read(source, key, codec.note)
        claim(target, items.files, force)
        with about(source):
            layout = codec.layout(items.shape, items.dtype)
        chunk = min(work.format.default_chunk(layout) if chunk_items is None else chunk_items, max(1, items.count))
        bar = work.tqdm(total=items.count, unit="item", disable=None, desc="compress")
        settings: dict[str, Any] = {"chunk_items": chunk, "embed": embed, "note": items.note, "verify": verify}
        with about(source, "chunk_items"), codec.writer(target, items.shape, items.dtype, **settings) as writer, bar:
            for block in items.blocks(chunk):
                writer.append(block)
                bar.update(len(block))
            claim(target, [], force)  # once more: another command may have been quicker
        values = items.count * math.prod(items.shape)
        alone, before = len(codec.to_bytes()), items.disk_bytes
        tell(target, f"{target}: {work.size_beside(writer.bytes, values, before)}")
        if not embed:
            tell(target, f"with the model: {work.size_beside(writer.bytes + alone, values, before)}")
        if compare and items.count:
            work.compare(target, items, writer.bytes - alone * embed, alone, values)


def decompress(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file that `compress` wrote; - is standard input.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help=".npy, .npz, .csv, .tsv, -, a folder for images, or .png for one.")
    ],
    model: Annotated[Path | None, typer.Option("--model", help="Its model, unless the file carries it.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Skip damaged items; exit code 1 if there are any.")] = False,
    recover: Annotated[
        bool, typer.Option("--recover", help="Recover the items of a truncated file; exit code 1.")
    ] = False,
    force: Force = False,
) -> None:
    """Write what was compressed, as an array, as images or as a table."""
    with errors(target=target):
        if not target.is_dir():
            claim(target, [source, model], force)
        with loading():
            from . import _files as work
        if target.is_dir():
            work.sources.check_folder(target)
    with errors(target=target), work.opened(source, model, recover) as reader:
        note, model_note = reader.note(), work.model_note(reader, model)
        blocks, kept, lost = work.progressing(reader), work.np.arange(len(reader)), 0
        if skip or reader.recovered:
            found, damage = reader.read(on_error="skip")
            blocks, kept, lost = iter([found]), damage.kept, len(reader) - len(found)
            work.tell_lost(damage)
        dtype = work.np.dtype(reader.layout.dtype)
        blocks = work.checked_at_the_end(blocks, target, force)
        work.sources.write(target, blocks, reader.layout.shape, dtype, len(kept), note, model_note, kept)
        tell(target, f"{target}: {len(kept):,} items" + (f", {lost:,} are lost" if lost else ""))
        if reader.recovered:
            print(f"'{source}': its end is lost: there may have been more items", file=sys.stderr)
    raise typer.Exit(int(lost > 0 or reader.recovered))


def test(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed file, or a model; - is standard input.")],
    model: Annotated[Path | None, typer.Option("--model", help="Its model, unless the file carries it.")] = None,
) -> None:
    """Decode a file and check its checksums, without writing anything; exit code 1 if it is damaged."""
    with errors():
        with loading():
            from . import _files as work
        content = work.content_of(source)
        if work.start_of(content) in work.PCCodec.MAGICS:
            with about(source):
                work.PCCodec.from_bytes(content if isinstance(content, bytes) else content.read_bytes())
            print(f"{source}: a whole model")
            return
        with work.opened(source, model, content=content) as reader:
            reader.note()
            damage = reader.test()
            work.tell_lost(damage)
            lost = len(reader) - len(damage.kept)
            print(f"{source}: {len(damage.kept):,} items are whole" + (f", {lost:,} are lost" if lost else ""))
    raise typer.Exit(int(lost > 0))


def inspect(source: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed file, or a model.")]) -> None:
    """Show what is in a compressed file or a model, without decoding it."""
    with errors():
        with loading():
            from . import _files as work
        content = work.content_of(source)
        with about(source), io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            is_model = file.read(8) in work.PCCodec.MAGICS
            file.seek(0)
            facts = work.model_facts(file.read()) if is_model else work.container_facts(file)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name + ':':{width + 1}} {value}")
