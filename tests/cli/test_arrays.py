"""Array files: every integer comes back, damaged ones are named, and nothing is silently left out."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from probkernels import CorruptStreamError, codec
from probkernels.cli import app
from probkernels.codec import Layout
from typer.testing import CliRunner

runner = CliRunner()
ROWS = (np.arange(60) % 7).reshape(20, 3)


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output


def round_trip(here: Path, ending: str = "npy") -> Path:
    run("train", here / f"a.{ending}", here / "m.pcm", "--latents", 2, "--epochs", 1)
    run("compress", here / f"a.{ending}", here / "a.pkc", "--model", here / "m.pcm")
    run("decompress", here / "a.pkc", here / f"b.{ending}", "--model", here / "m.pcm")
    return here / f"b.{ending}"


@pytest.mark.parametrize("low", [2**62, 2**63 - 5, -(2**63), -(2**61) - 1, 2**61 + 1])
def test_integers_of_any_size_come_back(tmp_path: Path, low: int) -> None:
    x = low + ROWS % 5
    np.save(tmp_path / "a.npy", x)
    found = np.load(round_trip(tmp_path))
    assert found.dtype == x.dtype and (found == x).all()
    x[3, 1], x[4, 2] = -(2**63), 2**63 - 1  # and values that the model has no code for
    np.save(tmp_path / "c.npy", x)
    run("compress", tmp_path / "c.npy", tmp_path / "c.pkc", "--model", tmp_path / "m.pcm")
    run("decompress", tmp_path / "c.pkc", tmp_path / "d.npy", "--model", tmp_path / "m.pcm")
    assert (np.load(tmp_path / "d.npy") == x).all()


def test_codes_are_exact_for_every_value_and_offset() -> None:
    ends = [-(2**63), -(2**63) + 1, -(2**61) - 1, -1, 0, 1, 2**61 + 1, 2**63 - 2, 2**63 - 1]
    x = np.array(ends)[:, None]
    for offset in ends:
        layout = Layout((1,), "int64", offset)
        assert (layout.items(layout.codes(x)) == x).all()


def test_a_range_wider_than_an_int64_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[-(2**63)], [2**63 - 1]]))
    assert "65536 values, got a range of 18446744073709551616" in run(
        "train", tmp_path / "a.npy", tmp_path / "m.pcm", code=1
    )


def header(text: str) -> Callable[[Path], None]:
    line = text.encode() + b"\n"
    data = b"\x93NUMPY\x01\0" + len(line).to_bytes(2, "little") + line + bytes(100)
    return lambda path: path.write_bytes(data) and None


def after(path: Path) -> None:
    np.save(path, ROWS)
    with path.open("ab") as file:
        file.write(b"xxxx")


def cut(path: Path) -> None:
    np.save(path, ROWS)
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    "make",
    [
        after,
        cut,
        header("{'descr': '<u1', 'fortran_order': False, 'shape': (3, "),
        header("  {'descr': '<u1',\n x"),
        header("{'descr': '<u1', 'fortran_order': False, 'shape': (4611686018427387904,4), }"),
        header("{'descr': '<u1', 'fortran_order': False, 'shape': (99999999999999999999999,), }"),
        header("{'descr': '<u1', 'fortran_order': False, 'shape': (-3,4), }"),
        header("{'descr': '<u1', 'fortran_order': False, 'shape': (True,4), }"),
        header("{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }"),
        lambda path: path.write_bytes(b"\x93NUMPY\x03\0" + (4).to_bytes(4, "little") + b"\xff\xfe\xfa\n") and None,
        lambda path: path.write_bytes(b"") and None,
        lambda path: np.save(path, np.array([1, None], object), allow_pickle=True),
        lambda path: np.save(path, np.zeros(3, [("a", "i4"), ("b", "u1")])),
        lambda path: np.save(path, np.array(["a", "b"])),
        lambda path: np.save(path, np.ones(3, np.uint64)),
    ],
)
def test_malformed_arrays_are_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.npy")
    assert "a.npy': expected" in run("train", tmp_path / "a.npy", tmp_path / "m.pcm", code=1)


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("key", ["file", "allow_pickle", "a/b", ""])
def test_arrays_of_any_name_come_back(tmp_path: Path, key: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(f"{key}.npy", member(ROWS))
    with np.load(round_trip(tmp_path, "npz")) as found:
        assert found.files == [key] and (found[key] == ROWS).all()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "arrays of different names, got none"),
        ([("readme.txt", b"hello")], "'readme.txt' to be an array"),
        ([("a.npy", member(ROWS)), ("a.npy", member(ROWS))], "arrays of different names, got a, a"),
        ([("a.npy", b"no")], "'a' to be an array"),
        ([("a.npy", member(ROWS) + b"more")], "one array in 'a', got 4 bytes more behind it"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_malformed_archives_are_named(tmp_path: Path, members: list[tuple[str, bytes]], words: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    key = ["--key", members[0][0].removesuffix(".npy")] if members else []
    for more in ([], key):  # of two arrays of one name, a key would take the last
        assert f"a.npz': expected {words}" in run("train", tmp_path / "a.npz", tmp_path / "m.pcm", *more, code=1)


def test_numbers_that_are_zero_are_no_defaults(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    assert "--epochs: expected" in run("train", tmp_path / "a.npy", tmp_path / "m.pcm", "--epochs", 0, code=1)
    run("train", tmp_path / "a.npy", tmp_path / "m.pcm", "--epochs", 1)
    with pytest.raises(ValueError, match="chunk_items"):
        codec.PCCodec.load(tmp_path / "m.pcm").compress(ROWS, chunk_items=0)


def test_items_too_large_for_the_machine_are_refused_at_once() -> None:
    photo = np.broadcast_to(np.uint8(3), (1, 2400, 2300, 3))
    with pytest.raises(ValueError, match=r"16,560,000, which need [\d,]+ GB.*Hint: cut images into tiles"):
        codec.train(photo, progress=False)


def test_a_table_is_compared_with_its_file(tmp_path: Path) -> None:
    content = b"color,count\n" + b"red,1000000\nblue,2000000\n" * 50
    (tmp_path / "a.csv").write_bytes(content)
    run("train", tmp_path / "a.csv", tmp_path / "m.pcm", "--latents", 2, "--epochs", 1)
    model = (tmp_path / "m.pcm").stat().st_size
    for more in ([], ["--embed"]):
        arguments = ["compress", tmp_path / "a.csv", tmp_path / "a.pkc", "--model", tmp_path / "m.pcm", "--compare"]
        lines = run(*arguments, "--force", *more).splitlines()
        ours = (tmp_path / "a.pkc").stat().st_size
        assert f"{_ratio(len(content), ours)} than the {len(content):,} bytes read" in lines[0]
        whole = [line for line in lines if line.startswith("with the model: ")]
        assert len(whole) == (not more)
        for line in whole:  # the very bytes that somebody without the model needs
            assert f" {ours + model:,} bytes" in line and _ratio(len(content), ours + model) in line
        for name, size in (("the files as they are  ", len(content)), ("zlib -9  ", len(zlib.compress(content, 9)))):
            gain = (size - (ours - model if more else ours)) / 100
            (line,) = (line for line in lines if line.strip().startswith(name))
            assert f" {size:,} bytes" in line
            assert ("smaller than ours" if gain <= 0 else f"pays from {math.ceil(model / gain):,} items") in line


def _ratio(before: int, after: int) -> str:
    return f"{before / after:.2f} times smaller" if before >= after else f"{after / before:.2f} times larger"


def test_what_does_not_decode_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    round_trip(tmp_path)
    real = codec.ProgramCoder.encode

    def wrong(self: codec.ProgramCoder, codes: np.ndarray, rows: int, lanes: int) -> list[bytes]:
        return real(self, codes ^ (codes == 3), rows, lanes)

    monkeypatch.setattr(codec.ProgramCoder, "encode", wrong)
    arguments = ["compress", tmp_path / "a.npy", tmp_path / "c.pkc", "--model", tmp_path / "m.pcm"]
    assert "does not decode to its items" in run(*arguments, code=1)
    assert not (tmp_path / "c.pkc").exists()
    pc = codec.PCCodec.load(tmp_path / "m.pcm")
    with pytest.raises(CorruptStreamError, match="does not decode"):
        pc.compress(ROWS, verify=True)
    run(*arguments, "--no-verify")
    monkeypatch.undo()
    assert "20 are lost" in run("test", tmp_path / "c.pkc", "--model", tmp_path / "m.pcm", code=1)


def test_test_decodes_everything(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    round_trip(tmp_path)
    model = ["--model", tmp_path / "m.pcm"]
    assert "20 items are whole" in run("test", tmp_path / "a.pkc", *model)
    assert "a whole model" in run("test", tmp_path / "m.pcm")
    assert "which it has not" in run("test", tmp_path / "a.pkc", code=1)
    run("compress", tmp_path / "a.npy", tmp_path / "c.pkc", *model, "--chunk-items", 5)
    data = bytearray((tmp_path / "c.pkc").read_bytes())
    with codec.PCCodec.load(tmp_path / "m.pcm").open(bytes(data)) as reader:
        data[int(reader._offsets[2]) + 12] ^= 1
    (tmp_path / "c.pkc").write_bytes(data)
    text = run("test", tmp_path / "c.pkc", *model, code=1)
    assert "items 10 to 14 are lost: chunk 2" in text and "15 items are whole, 5 are lost" in text
    (tmp_path / "m.pcm").write_bytes((tmp_path / "m.pcm").read_bytes()[:-1])
    run("test", tmp_path / "m.pcm", code=1)
