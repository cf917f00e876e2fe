"""Images that come back as they are, and those that are refused because they would not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probkernels import codec
from probkernels.cli import _files, _images, app
from typer.testing import CliRunner

pillow = pytest.importorskip("PIL.Image")
runner = CliRunner()
GRAY = (np.arange(48).reshape(6, 8) * 3 % 250).astype(np.uint8)
COLOR = (np.arange(144).reshape(6, 8, 3) * 3 % 250).astype(np.uint8)


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output


def round_trip(here: Path, target: str = "out") -> list[Path]:
    run("train", here / "in", here / "m.pcm", "--latents", 2, "--epochs", 1)
    run("compress", here / "in", here / "x.pkc", "--model", here / "m.pcm")
    run("decompress", here / "x.pkc", here / target, "--model", here / "m.pcm")
    return sorted((here / target).iterdir()) if (here / target).is_dir() else [here / target]


def png(pixels: np.ndarray, color: int, *between: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = pixels.reshape(len(pixels), -1).astype(">u2")
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color, 0, 0, 0)
    parts = [(b"IHDR", header), *between, (b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def saved(name: str, image: Any, **settings: Any) -> Callable[[Path], None]:
    return lambda folder: image.save(folder / name, **settings)


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def gray(step: int = 0) -> Any:
    return pillow.fromarray(GRAY + np.uint8(step))


def color(step: int = 0) -> Any:
    return pillow.fromarray(COLOR + np.uint8(step))


def wide(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(60_000, 60_200, (6, 8, *shape))


def dark_palette() -> bytes:
    """A TIFF whose palette has the colors 0 to 255 of 65535, which Pillow shows as black."""
    image, file = gray().convert("P"), io.BytesIO()
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(file, "TIFF")
    colors = np.tile(np.arange(256, dtype="<u2"), 3)
    found = {step: (colors * step).tobytes() for step in (256, 257)}
    step = next(step for step, data in found.items() if data in file.getvalue())
    return file.getvalue().replace(found[step], colors.tobytes())


@pytest.mark.parametrize(
    "make, words",
    [
        (written("a.png", png(wide(3), 2)), "16 bits a channel in RGB"),
        (written("a.png", png(wide(2), 4)), "16 bits"),
        (written("a.png", png(wide(4), 6)), "16 bits"),
        (written("a.png", png(wide(), 0, (b"tRNS", b"\0\3"))), "16-bit gray with a transparent value"),
        (saved("a.gif", gray(), save_all=True, append_images=[gray(5)]), "2 frames"),
        (saved("a.tif", gray(), save_all=True, append_images=[gray(5), gray(7)]), "3 frames"),
        (saved("a.webp", color(), lossless=True, save_all=True, append_images=[color(5)]), "2 frames"),
        (saved("a.png", color(), save_all=True, append_images=[color(5)]), "animation"),
        (saved("a.jpg", pillow.fromarray(COLOR).convert("CMYK")), "mode CMYK"),
        (saved("a.tif", pillow.fromarray(GRAY.astype(np.int32))), "32 bits"),
        (saved("a.tif", pillow.fromarray(GRAY.astype(np.float32))), "32 bits"),
        (written("a.ppm", b"P6 8 6 65535\n" + wide(3).astype(">u2").tobytes()), "largest value of 65535"),
        (written("a.ppm", b"P6 # of 10 bits\n8 6 1023\n" + (wide(3) % 1024).astype(">u2").tobytes()), "1023"),
        (written("a.pgm", (b"P5 8 6 255\n" + GRAY.tobytes()) * 2), "59 bytes more behind it"),
        (written("a.pgm", b"P5 8 6 100\n" + (GRAY % 100).tobytes()), "largest value of 100"),
        (written("a.pgm", b"P5 8 6 4095\n" + (wide() % 4096).astype(">u2").tobytes()), "4095"),
        (written("a.tif", dark_palette()), "palette with colors of 16 bits"),
        (saved("a.png", pillow.new("1", (20000, 20000))), "decompression bomb"),
        (written("a.png", png(wide(), 0)[:-40]), "a.png': a damaged image"),
        (written("a.png", b""), "a.png"),
        (written("n" * 251 + ".bmp", b""), "names of at most 255 bytes"),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    if words.startswith("names"):
        make2 = written("n" * 251 + ".gif", b"")
        make2(tmp_path / "in")
    text = run("train", tmp_path / "in", tmp_path / "m.pcm", code=1)
    assert text.startswith("error: ") and words in text and "in" in text
    assert not (tmp_path / "m.pcm").exists()


@pytest.mark.parametrize(
    "kind",
    [
        SyntaxError, EOFError, struct.error, zlib.error, OverflowError, ZeroDivisionError, MemoryError, KeyError,
        IndexError, TypeError, ValueError, AttributeError, OSError,
    ],
)  # fmt: skip
def test_whatever_pillow_raises_for_a_damaged_image_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def raises(*_: object) -> None:
        raise kind("no such tag")

    gray().save(tmp_path / "a.png")
    monkeypatch.setattr(pillow, "open", raises)
    text = run("train", tmp_path / "a.png", tmp_path / "m.pcm", code=1)
    assert text.startswith("error: ") and "a.png': a damaged image (" in text and "no such tag" in text


def palette() -> Any:
    image = gray().convert("P")
    image.putpalette(list(range(256)) * 3)
    return image


@pytest.mark.parametrize(
    "make",
    [
        saved("a.png", palette(), transparency=bytes(range(256))),
        saved("a.png", gray(), transparency=3),
        saved("a.png", color(), transparency=(0, 3, 6)),
        saved("a.gif", gray().convert("P"), transparency=5),
        written("a.ppm", b"P6 8 6 255\n" + COLOR.tobytes() + b"\n"),
        saved("a.png", pillow.fromarray(GRAY > 100)),
        saved("a.tif", pillow.fromarray(wide().astype("<u2"))),
        saved("a.tif", pillow.fromarray(wide().astype(">u2"))),
        saved("a.tif", palette()),
        written("a.png", png(wide(), 0)),
    ],
)
def test_colors_and_transparency_come_back(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    (source,) = (tmp_path / "in").iterdir()
    (target,) = round_trip(tmp_path)
    with pillow.open(source) as one, pillow.open(target) as other:
        assert (np.array(one.convert("RGBA")) == np.array(other.convert("RGBA"))).all()
        if one.mode.startswith("I;16"):
            assert (np.array(one) == np.array(other)).all()


def test_sixteen_bits_of_a_pgm_come_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pgm").write_bytes(b"P5 8 6 65535\n" + wide().astype(">u2").tobytes())
    (target,) = round_trip(tmp_path)
    with pillow.open(target) as image:
        assert (np.array(image) == wide()).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_orientation_comes_back(tmp_path: Path, ending: str) -> None:
    from PIL import ImageOps

    (tmp_path / "in").mkdir()
    exif = pillow.Exif()
    exif[0x112] = 6
    color().save(tmp_path / "in" / f"a.{ending}", exif=exif)
    (target,) = round_trip(tmp_path)
    with pillow.open(tmp_path / "in" / f"a.{ending}") as one, pillow.open(target) as other:
        seen = [np.array(ImageOps.exif_transpose(image)) for image in (one, other)]
    assert seen[0].shape == (8, 6, 3) and (seen[0] == seen[1]).all()


@pytest.mark.parametrize(
    "names, back",
    [
        (["a.bmp", "a.png", "a.bmp.png"], ["a.bmp.png", "a.png.png", "a.bmp.png.png"]),
        (["x.bmp", "x.tif", "x.tif.bmp"], ["x.bmp.png", "x.tif.png", "x.tif.bmp.png"]),
        ([".a.png", "b.bmp"], [".a.png", "b.png"]),
        (["a\\b.png", "b.png"], ["a\\b.png", "b.png"]),
    ],
)
def test_as_many_files_come_back(tmp_path: Path, names: list[str], back: list[str]) -> None:
    (tmp_path / "in").mkdir()
    for place, name in enumerate(names):
        gray(place).save(tmp_path / "in" / name)
    assert [path.name for path in round_trip(tmp_path)] == sorted(back)
    for source, target in zip(names, back, strict=True):
        with pillow.open(tmp_path / "in" / source) as one, pillow.open(tmp_path / "out" / target) as other:
            assert (np.array(one) == np.array(other)).all()


def test_what_a_folder_has_besides_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "in" / "more.png").mkdir(parents=True)
    gray().save(tmp_path / "in" / "a.png")
    for name in (".png", "b.tga", "c"):
        (tmp_path / "in" / name).write_bytes(b"")
    words = "left out, as no images by their names: 4 (.png, b.tga, c, more.png/)"
    for arguments in (["train", "in", "m.pcm", "--epochs", 1], ["compress", "in", "x.pkc", "--model", "m.pcm"]):
        assert words in run(*(tmp_path / part if "." in str(part) or part == "in" else part for part in arguments))


def test_names_that_are_one_name_to_the_file_system_overwrite_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for place, name in enumerate(("a.png", "b.png")):
        gray(place).save(tmp_path / "in" / name)
    monkeypatch.setattr(_images, "png_names", lambda names: ["a.png"] * len(names))  # as if A.png and a.png were one
    run("train", tmp_path / "in", tmp_path / "m.pcm", "--latents", 2, "--epochs", 1)
    run("compress", tmp_path / "in", tmp_path / "x.pkc", "--model", tmp_path / "m.pcm")
    text = run("decompress", tmp_path / "x.pkc", tmp_path / "out", "--model", tmp_path / "m.pcm", code=1)
    assert "File exists" in text and not (tmp_path / "out").exists()


def test_one_image_comes_back_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    gray().save(tmp_path / "in" / "a.png")
    assert round_trip(tmp_path, "back.png") == [tmp_path / "back.png"]
    with pillow.open(tmp_path / "back.png") as image:
        assert (np.array(image) == GRAY).all()
    arguments = ["decompress", tmp_path / "x.pkc", tmp_path / "back.jpg", "--model", tmp_path / "m.pcm"]
    assert "expected a folder, or an .png for one image" in run(*arguments, code=1)


def test_large_photos_get_tiles_and_are_compared_with_their_file(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 60, (80, 72))  # as photos have, or DEFLATE has it easy
    smooth = np.add.outer(np.arange(80), np.arange(72)) // 2
    pillow.fromarray((smooth + grain).astype(np.uint8)).save(tmp_path / "p.jpg", quality=20)
    text = run("train", tmp_path / "p.jpg", tmp_path / "p.pcm", "--latents", 2, "--epochs", 1)
    assert "images of 5,760 values are cut into tiles of 8x8" in text
    assert codec.PCCodec.load(tmp_path / "p.pcm").tile == _files.TILE
    size = (tmp_path / "p.jpg").stat().st_size
    text = run("compress", tmp_path / "p.jpg", tmp_path / "p.pkc", "--model", tmp_path / "p.pcm", "--compare")
    ours = (tmp_path / "p.pkc").stat().st_size
    assert ours > size  # a JPEG's pixels are dearer than the JPEG
    assert f"{ours / size:.2f} times larger than the {size:,} bytes read" in text
    line = next(line for line in text.splitlines() if "the files as they are  " in line)
    assert f"{size:,} bytes" in line and "smaller than ours" in line


def test_a_flow_under_the_model_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probkernels.codec._fitting.FLOW_STEPS", 8)
    rough = np.random.default_rng(0).integers(-2, 3, (32, 32)).cumsum(0).cumsum(1) % 64
    pillow.fromarray(rough.astype(np.uint8)).save(tmp_path / "a.png")
    run("train", tmp_path / "a.png", tmp_path / "m.pcm", "--flow", "--tile", "4x4", "--latents", 2, "--epochs", 1)
    assert codec.PCCodec.load(tmp_path / "m.pcm").flow is not None
    run("compress", tmp_path / "a.png", tmp_path / "a.pkc", "--model", tmp_path / "m.pcm")
    run("decompress", tmp_path / "a.pkc", tmp_path / "b.png", "--model", tmp_path / "m.pcm")
    with pillow.open(tmp_path / "b.png") as image:
        assert (np.array(image) == rough).all()
