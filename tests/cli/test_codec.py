"""Training, compressing, decompressing and inspecting files from the command line."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probkernels import codec
from probkernels.cli import app
from typer.testing import CliRunner, Result

runner = CliRunner()


def run(*arguments: object, code: int = 0) -> Result:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def fails(*arguments: object) -> str:
    """The message of a command that must end with one."""
    text = run(*arguments, code=1).output
    assert text.startswith("error: "), text
    return text


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (4, 6)) -> np.ndarray:
    """Stripes of four gray levels."""
    draw = np.random.default_rng(seed).integers(0, 4, (count, shape[0], *[1] * (len(shape) - 1)))
    return np.broadcast_to(draw * 60, (count, *shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x.npy, a model of it, and x.pkc, compressed by it."""
    here = tmp_path_factory.mktemp("files")
    np.save(here / "x.npy", images(300))
    run("train", here / "x.npy", here / "m.pcm", "--latents", 4, "--epochs", 5)
    run("compress", here / "x.npy", here / "x.pkc", "--model", here / "m.pcm", "--chunk-items", 50)
    return here


def round_trip(here: Path, source: str, target: str, *train: object, embed: bool = False) -> Result:
    run("train", here / source, here / "t.pcm", "--latents", 3, "--epochs", 3, *train)
    model = ["--model", here / "t.pcm"]
    done = run("compress", here / source, here / "t.pkc", *model, *(["--embed"] if embed else []))
    run("decompress", here / "t.pkc", here / target, *([] if embed else model))
    return done


def test_array_with_the_model_beside_or_inside(folder: Path, tmp_path: Path) -> None:
    run("decompress", folder / "x.pkc", tmp_path / "y.npy", "--model", folder / "m.pcm")
    assert (np.load(tmp_path / "y.npy") == images(300)).all()
    run("compress", folder / "x.npy", tmp_path / "x.pkc", "--model", folder / "m.pcm", "--embed")
    run("decompress", tmp_path / "x.pkc", tmp_path / "z.npy")
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()
    assert not list(folder.glob("*.checkpoint"))


@pytest.mark.parametrize("dtype", ["int16", ">i2", "uint8", "int64"])
def test_sensor_rows(tmp_path: Path, dtype: str) -> None:
    steps = np.random.default_rng(0).integers(-3, 4, (200, 5)).cumsum(0)
    x = (steps + (40 if dtype == "uint8" else 0)).clip(0 if dtype == "uint8" else None, None).astype(dtype)
    np.savez(tmp_path / "x.npz", rows=x, other=x[:3])
    run("train", tmp_path / "x.npz", tmp_path / "m.pcm", "--key", "rows", "--latents", 3, "--epochs", 3)
    run("compress", tmp_path / "x.npz", tmp_path / "x.pkc", "--model", tmp_path / "m.pcm", "--key", "rows")
    run("decompress", tmp_path / "x.pkc", tmp_path / "y.npz", "--model", tmp_path / "m.pcm")
    with np.load(tmp_path / "y.npz") as file:
        assert file.files == ["rows"] and (file["rows"] == x).all()
        assert file["rows"].dtype == x.dtype.newbyteorder("<")


def test_a_single_value_an_item_and_no_items(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(50, dtype=np.uint8) % 7)
    round_trip(tmp_path, "v.npy", "w.npy")
    assert (np.load(tmp_path / "w.npy") == np.arange(50) % 7).all()
    np.save(tmp_path / "none.npy", images(0))
    run("compress", tmp_path / "none.npy", tmp_path / "none.pkc", "--model", folder / "m.pcm", "--compare")
    run("decompress", tmp_path / "none.pkc", tmp_path / "none2.npy", "--model", folder / "m.pcm")
    assert np.load(tmp_path / "none2.npy").shape == (0, 4, 6)


@pytest.mark.parametrize(
    "mode, shape", [("L", (8, 12)), ("RGB", (4, 6, 3)), ("RGBA", (4, 6, 4)), ("LA", (4, 6, 2)), ("I;16", (4, 6))]
)
def test_folders_of_images(tmp_path: Path, mode: str, shape: tuple[int, ...]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pictures = images(12, shape=shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    (tmp_path / "in").mkdir()
    for place, picture in enumerate(pictures):
        saved = pillow.fromarray(picture)
        assert saved.mode == mode
        saved.save(tmp_path / "in" / f"{place:02}.{'png' if place % 2 or mode == 'LA' else 'tif'}")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    round_trip(tmp_path, "in", "out", "--tile", "4x6", embed=mode == "L")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{place:02}.png" for place in range(12)]
    for place, picture in enumerate(pictures):
        with pillow.open(tmp_path / "out" / f"{place:02}.png") as file:
            assert (np.array(file) == picture).all()
    assert "expected a new or empty folder" in fails(
        "decompress", tmp_path / "t.pkc", tmp_path / "out", "--model", tmp_path / "t.pcm"
    )


def test_one_photo_in_tiles_and_images_that_are_not_alike(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    picture = np.add.outer(np.arange(37), np.arange(50)).astype(np.uint8)
    pillow.fromarray(picture).save(tmp_path / "a.png")
    round_trip(tmp_path, "a.png", "out", "--tile", "8x8")
    with pillow.open(tmp_path / "out" / "a.png") as file:
        assert (np.array(file) == picture).all()
    pillow.fromarray(picture[1:]).save(tmp_path / "out" / "b.png")
    assert "b.png': expected (37, 50) uint8" in fails("train", tmp_path / "out", tmp_path / "m.pcm", "--tile", "8x8")
    (tmp_path / "empty").mkdir()
    assert "no images in it" in fails("train", tmp_path / "empty", tmp_path / "m.pcm")


def write_table(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def table(count: int, seed: int = 0) -> list[list[str]]:
    """A color, a shape that goes with it, and a number."""
    draw = np.random.default_rng(seed).integers(0, 3, (count, 2))
    colors, forms = ["rot, dunkel", "grün", ""], ['"round"', "line\nbreak", "flat"]
    return [["color", "form", "size"]] + [[colors[a], forms[a], str(b / 2)] for a, b in draw.tolist()]


def test_tables_with_values_that_the_model_has_not_seen(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", table(200))
    run("train", tmp_path / "a.csv", tmp_path / "m.pcm", "--latents", 3, "--epochs", 3)
    rows = table(90, seed=1)
    rows[5][0], rows[80][2], rows[80][1] = "mauve", "NaN", "mauve"
    write_table(tmp_path / "b.csv", rows)
    model = ["--model", tmp_path / "m.pcm"]
    run("compress", tmp_path / "b.csv", tmp_path / "b.pkc", *model, "--chunk-items", 20)
    run("decompress", tmp_path / "b.pkc", tmp_path / "c.csv", *model)
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    run("decompress", tmp_path / "b.pkc", tmp_path / "c.npy", *model)
    assert np.load(tmp_path / "c.npy").shape == (90, 3)

    blob = bytearray((tmp_path / "b.pkc").read_bytes())
    with codec.PCCodec.load(tmp_path / "m.pcm").open(bytes(blob)) as reader:
        blob[int(reader._offsets[1]) + 20] ^= 1
    (tmp_path / "d.pkc").write_bytes(blob)
    assert "chunk 1" in fails("decompress", tmp_path / "d.pkc", tmp_path / "d.csv", *model)
    assert not (tmp_path / "d.csv").exists()
    done = run("decompress", tmp_path / "d.pkc", tmp_path / "d.csv", *model, "--skip", code=1)
    assert "items 20 to 39 are lost" in done.output and "70 items, 20 are lost" in done.output
    write_table(tmp_path / "e.csv", rows[:21] + rows[41:])
    assert (tmp_path / "d.csv").read_bytes() == (tmp_path / "e.csv").read_bytes()


def test_bad_tables(folder: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [*table(20), ["1", "2"]])
    assert "expected 3 values in line 30, as in line 1, got 2" in fails("train", tmp_path / "a.csv", tmp_path / "m.pcm")
    (tmp_path / "b.csv").write_text("")
    assert "empty" in fails("train", tmp_path / "b.csv", tmp_path / "m.pcm")
    write_table(tmp_path / "c.csv", table(20))
    compress = ["compress", tmp_path / "c.csv", tmp_path / "c.pkc", "--model", folder / "m.pcm"]
    assert "not of tables" in fails(*compress)
    (tmp_path / "d.csv").write_bytes(b"a\n\xff\n")
    assert "expected UTF-8" in fails("train", tmp_path / "d.csv", tmp_path / "m.pcm")
    arguments = ["decompress", folder / "x.pkc", tmp_path / "x.csv", "--model", folder / "m.pcm"]
    assert "no table" in fails(*arguments)
    assert "no images" in fails(*arguments[:2], tmp_path / "folder", *arguments[3:])


def test_notes_of_strangers(folder: Path, tmp_path: Path) -> None:
    """Names that would leave the folder, and impossible tables, are refused before anything is written."""
    pytest.importorskip("PIL.Image")
    pc = codec.PCCodec.load(folder / "m.pcm")

    def answer(note: dict[str, Any], target: str) -> str:
        with pc.writer(tmp_path / "x.pkc", (4, 6), note=note) as writer:
            writer.append(images(2))
        message = fails("decompress", tmp_path / "x.pkc", tmp_path / target, "--model", folder / "m.pcm")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pkc"]
        return message

    for names in (["../a.png", "b.png"], ["/a.png", "b.png"], ["a.png"], [1, 2], "ab", ["..", "b"], ["", "b"], None):
        assert "impossible names" in answer({"kind": "images", "names": names}, "out")
    sound = {"kind": "table", "names": ["a"], "gaps": [1], "others": ["b"]}
    for change in ({"names": 1}, {"gaps": [0]}, {"gaps": [1.5]}, {"gaps": [1, 1]}, {"others": [[]]}, {"gaps": None}):
        assert "impossible" in answer({**sound, **change}, "out.csv")
    assert "not of tables" in answer(sound, "out.csv")


def test_files_whose_end_is_lost(folder: Path, tmp_path: Path) -> None:
    blob = (folder / "x.pkc").read_bytes()
    (tmp_path / "x.pkc").write_bytes(blob[: len(blob) * 3 // 4])
    arguments = ["decompress", tmp_path / "x.pkc", tmp_path / "y.npy", "--model", folder / "m.pcm"]
    fails(*arguments)
    text = run(*arguments, "--recover", code=1).output  # items may be missing, which is no success
    assert f"'{tmp_path / 'x.pkc'}': its end is lost: there may have been more items" in text
    found = np.load(tmp_path / "y.npy")
    assert 100 <= len(found) < 300 and (found == images(300)[: len(found)]).all()
    assert "lost; --recover" in run("inspect", tmp_path / "x.pkc").output


def test_inspect(folder: Path, tmp_path: Path) -> None:
    text = run("inspect", folder / "x.pkc").output
    assert "300 of 4 x 6, uint8" in text and "6 of 50 items" in text and "not in the file" in text
    assert "24" in run("inspect", folder / "m.pcm").output
    data = bytearray((folder / "x.pkc").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.pkc").write_bytes(data)
    assert "whole" not in run("inspect", tmp_path / "damaged.pkc").output  # which only test can tell
    assert "are lost" in run("test", tmp_path / "damaged.pkc", "--model", folder / "m.pcm", code=1).output
    (tmp_path / "cut.pkc").write_bytes(data[:-1])
    assert "lost; --recover" in run("inspect", tmp_path / "cut.pkc").output
    assert "not" in fails("inspect", folder / "x.npy")
    (tmp_path / "nothing").write_bytes(b"")
    fails("inspect", tmp_path / "nothing")


def test_compare_tells_when_the_model_pays(folder: Path, tmp_path: Path) -> None:
    text = run("compress", folder / "x.npy", tmp_path / "x.pkc", "--model", folder / "m.pcm", "--compare").output
    assert "with the model: " in text
    for name in ("zlib -9", "bzip2 -9", "xz -9e"):
        line = next(line for line in text.splitlines() if name in line)
        assert "the model pays from" in line


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["compress", "absent.npy", "o", "--model", "m.pcm"], "absent.npy"),
        (["compress", "x.npy", "o", "--model", "x.npy"], "not a model file"),
        (["compress", "x.npy", "absent/o", "--model", "m.pcm"], "absent"),
        (["compress", "m.pcm", "o", "--model", "m.pcm"], "expected a folder of images or one of"),
        (["compress", "f.npy", "o", "--model", "m.pcm"], "float64"),
        (["compress", "small.npy", "o", "--model", "m.pcm"], "24 variables"),
        (["compress", "x.npy", "o", "--model", "m.pcm", "--chunk-items", "0"], "--chunk-items:"),
        (["compress", "broken.npz", "o", "--model", "m.pcm"], "broken.npz"),
        (["compress", "zero.npy", "o", "--model", "m.pcm"], "single value"),
        (["decompress", "x.pkc", "o.npy"], "which it has not"),
        (["decompress", "x.npy", "o.npy", "--model", "m.pcm"], "header"),
        (["train", "x.npy", "o.pcm", "--tile", "3"], "--tile"),
        (["train", "x.npy", "o.pcm", "--tile", "0x3"], "tile"),
        (["train", "x.npy", "o.pcm", "--latents", "0"], "latents"),
        (["train", "x.npy", "o.pcm", "--categories", "2"], "categories"),
        (["train", "wide.npy", "o.pcm"], "65536 values"),
        (["train", "empty.npy", "o.pcm"], "at least one item"),
    ],
)
def test_bad_input_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(folder)
    np.save("f.npy", np.zeros((3, 24)))
    np.save("small.npy", np.zeros((3, 5), np.uint8))
    np.save("zero.npy", np.uint8(1))
    np.save("wide.npy", np.array([[0], [10**6]]))
    np.save("empty.npy", images(0))
    Path("broken.npz").write_bytes(b"PK\x03\x04broken")
    assert words in fails(*arguments)
    assert not [name for name in os.listdir() if name.startswith(("o", ".o"))]


def test_interrupted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after some passes and called again, it ends as if it had not been stopped."""
    np.save(tmp_path / "x.npy", images(300))
    arguments = ["train", tmp_path / "x.npy", tmp_path / "m.pcm", "--latents", 4, "--epochs", 6]
    run(*arguments)
    whole = (tmp_path / "m.pcm").read_bytes()
    (tmp_path / "m.pcm").unlink()

    real = codec.train

    def stopped(*positional: Any, checkpoint: Path, **named: Any) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(codec.PCCodec, "save", stop)
        return real(*positional, checkpoint=checkpoint, **named)

    with monkeypatch.context() as patch:
        patch.setattr(codec, "train", stopped)
        assert "Run the same command" in run(*arguments, code=130).output
    monkeypatch.undo()
    assert (tmp_path / "m.pcm.checkpoint").exists() and not (tmp_path / "m.pcm").exists()
    run(*arguments)
    assert (tmp_path / "m.pcm").read_bytes() == whole and not (tmp_path / "m.pcm.checkpoint").exists()


def test_a_killed_compressor_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", images(2_000_000))
    (tmp_path / "out.pkc").write_bytes(b"old")
    command = [
        sys.executable,
        "-m",
        "probkernels",
        "compress",
        "big.npy",
        "out.pkc",
        "--model",
        folder / "m.pcm",
        "--force",
    ]
    process = subprocess.Popen([*map(str, command), "--chunk-items", "1000"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 0 for path in tmp_path.glob(".out.pkc.*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "out.pkc").read_bytes() == b"old"
