"""What a person is told: files and options by the names that they gave; nothing that was asked for is dropped."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probkernels import codec
from probkernels.cli import app
from typer.testing import CliRunner

runner = CliRunner()
WRITING = [
    ("compress", "x.npy", "out", "--model", "m.pcm"),
    ("decompress", "x.pkc", "out.npy", "--model", "m.pcm"),
    ("train", "x.npy", "out", "--latents", "2", "--epochs", "1"),
]


def run(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output


def fails(*arguments: str) -> str:
    text = run(*arguments, code=1)
    assert text.startswith("error: "), text
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of x.npy, of a table, of a model of each, and of x.npy compressed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        np.save("x.npy", (np.arange(360).reshape(60, 6) % 5).astype(np.uint8))
        Path("t.csv").write_text("a,b\n" + "1,2\n3,4\n" * 10)
        run("train", "x.npy", "m.pcm", "--latents", "2", "--epochs", "1")
        run("compress", "x.npy", "x.pkc", "--model", "m.pcm")
        return {name: Path(name).read_bytes() for name in os.listdir()}


@pytest.fixture
def here(made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in made.items():
        Path(name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decompress", "cut", "o.npy", "--model", "m.pcm"], "'cut': trailer: not found"),
        (["test", "cut", "--model", "m.pcm"], "'cut': trailer: not found"),
        (["inspect", "x.npy"], "'x.npy': header: not a file of this codec"),
        (["test", "x.npy"], "'x.npy': header: not a file of this codec"),
        (["test", "x.pkc"], "'x.pkc': the file needs model"),
        (["compress", "x.npy", "o.pkc", "--model", "x.npy"], "'x.npy': model: not a model file"),
        (["decompress", "x.pkc", "o.npy", "--model", "cut"], "'cut': model: not a model file"),
        (["compress", "y.npy", "o.pkc", "--model", "m.pcm"], "'y.npy': expected rows of 6 variables, as the model has"),
        (["train", "none.npy", "o.pcm"], "'none.npy': expected at least one item"),
        (["train", "x.npy", "o.pcm", "--latents", "0"], "--latents: expected a number >= 1, got 0"),
        (["train", "x.npy", "o.pcm", "--latents", "1000000000"], "--latents: expected a model that fits"),
        (["train", "x.npy", "o.pcm", "--rows", "0"], "--rows: expected a number >= 1, got 0"),
        (["train", "x.npy", "o.pcm", "--epochs", "0"], "--epochs: expected a number >= 1, got 0"),
        (["compress", "x.npy", "o", "--model", "m.pcm", "--chunk-items", "0"], "--chunk-items: expected a number in 1"),
        (["train", "x.npy", "o.pcm", "--key", "a"], "--key: expected none, as 'x.npy' is no .npz"),
        (["train", "t.csv", "o.pcm", "--key", "a"], "--key: expected none, as 't.csv' is no .npz"),
        (["train", "t.csv", "o.pcm", "--categories", "9"], "--categories: expected none for a table"),
        (["train", "bits.npy", "o.pcm"], "got bool. Hint: save array.astype(np.uint8)"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_option(here: Path, arguments: list[str], words: str) -> None:
    Path("cut").write_bytes(Path("x.pkc").read_bytes()[:-20])
    np.save("y.npy", np.zeros((3, 5), np.uint8))
    np.save("none.npy", np.zeros((0, 5), np.uint8))
    np.save("bits.npy", np.zeros((3, 5), bool))
    text = fails(*arguments)
    assert words in text and "argument" not in text
    assert not [name for name in os.listdir() if name.startswith(("o", ".o"))]


def test_a_key_is_no_name_in_a_pipe_with_an_npy(here: Path) -> None:
    result = runner.invoke(
        app, ["train", "-", "o.pcm", "--key", "a"], input=Path("x.npy").read_bytes(), catch_exceptions=False
    )
    assert result.exit_code == 1 and "--key: expected none" in result.output


def test_bytes_behind_an_array_in_a_pipe_are_not_dropped(here: Path) -> None:
    content = Path("x.npy").read_bytes()
    for data, words in ((content + b"xx", "2 bytes more behind it"), (content + content, "bytes more behind it")):
        result = runner.invoke(app, ["compress", "-", "o.pkc", "--model", "m.pcm"], input=data)
        assert result.exit_code == 1 and words in result.output and not Path("o.pkc").exists()


def test_nothing_in_a_pipe_is_larger_without_a_ratio(here: Path) -> None:
    """A size of 0 has no ratio to others."""
    np.save("none.npy", np.zeros((0, 6), np.uint8))
    result = runner.invoke(app, ["compress", "-", "o.pkc", "--model", "m.pcm"], input=Path("none.npy").read_bytes())
    assert result.exit_code == 0 and "larger than the 0 bytes read" in result.output


def _appears(real: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The function, which another command's file comes before."""

    def later(*arguments: Any, **named: Any) -> Any:
        Path(path).write_text("of another command")
        return real(*arguments, **named)

    return later


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_file_that_appears_meanwhile_stays(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    target = command[2]
    monkeypatch.setattr(codec.CodecWriter, "append", _appears(codec.CodecWriter.append, target))
    monkeypatch.setattr(codec.CodecReader, "chunks", _appears(codec.CodecReader.chunks, target))
    monkeypatch.setattr(codec, "train", _appears(codec.train, target))
    assert "there is a file already" in fails(*command)
    assert Path(target).read_text() == "of another command"
    run(*command, "--force")
    assert Path(target).read_bytes() != b"of another command"


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_full_disk_leaves_what_was_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    target = command[2]
    Path(target).write_text("old")

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(str(here / f".{target}.")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(os.listdir())
    assert f"'{target}': [Errno 28] No space left on device" in fails(*command, "--force")
    left = {name for name in os.listdir() if not name.endswith(".checkpoint")}
    assert Path(target).read_text() == "old" and sorted(left) == before
    assert "'/dev/full': [Errno 28]" in fails(command[0], command[1], "/dev/full", *command[3:])


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_limit_of_the_systems_on_files_leaves_what_was_there(here: Path, command: tuple[str, ...]) -> None:
    """Of 30 bytes: the write itself fails, in the middle."""
    Path(command[2]).write_text("old")
    before, (soft, hard) = sorted(os.listdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
    try:
        text = fails(*command, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"'{command[2]}" in text and "[Errno 27] File too large" in text
    assert Path(command[2]).read_text() == "old" and sorted(os.listdir()) == before


def test_a_folder_that_may_not_be_written_is_named_by_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def denied(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if ".o.pkc." in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", denied)
    assert fails("compress", "x.npy", "o.pkc", "--model", "m.pcm").endswith("Permission denied: 'o.pkc'\n")
