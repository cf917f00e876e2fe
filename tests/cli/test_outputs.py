"""What stands where a command writes: nothing that somebody has is lost, and pipes get what is written."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from probkernels import codec
from probkernels.__main__ import main
from probkernels._core import outputs
from probkernels.cli import app
from typer.testing import CliRunner

runner = CliRunner()
ROWS = np.random.default_rng(0).integers(0, 4, (60, 6)).astype(np.uint8)


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("made")
    np.save(here / "x.npy", ROWS)
    run("train", here / "x.npy", here / "m.pcm", "--latents", 2, "--epochs", 1)
    run("compress", here / "x.npy", here / "x.pkc", "--model", here / "m.pcm")
    return here


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with x.npy, m.pcm and x.pkc, and other names of them."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "d.npy").write_bytes((made / "x.pkc").read_bytes())
    (tmp_path / "mm.npy").write_bytes((made / "m.pcm").read_bytes())
    for name in ("x.npy", "m.pcm", "d.npy"):
        (tmp_path / f"link-{name}").symlink_to(name)
        os.link(tmp_path / name, tmp_path / f"hard-{name}")
    os.link(tmp_path / "x.npy", tmp_path / "o.pcm.checkpoint")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "x.npy", "x.npy", "--model", "m.pcm"],
        ["compress", "x.npy", "./link-x.npy", "--model", "m.pcm"],
        ["compress", "link-x.npy", "hard-x.npy", "--model", "m.pcm"],
        ["compress", "x.npy", "m.pcm", "--model", "m.pcm"],
        ["compress", "x.npy", "link-m.pcm", "--model", "hard-m.pcm"],
        ["train", "x.npy", "x.npy"],
        ["train", "link-x.npy", "x.npy"],
        ["train", "x.npy", "o.pcm"],
        ["decompress", "d.npy", "d.npy", "--model", "m.pcm"],
        ["decompress", "d.npy", "hard-d.npy", "--model", "m.pcm"],
        ["decompress", "x.pkc", "mm.npy", "--model", "mm.npy"],
        ["reproduce", "--json", "rows", "--report", "rows"],
    ],
)
def test_what_is_read_is_never_written(here: Path, arguments: list[str], force: list[str]) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    text = run(*arguments, *force, code=2 if arguments[0] == "reproduce" else 1)
    assert "which is read" in text or "different files" in text
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "x.npy", "old", "--model", "m.pcm"],
        ["train", "x.npy", "old", "--epochs", "1", "--latents", "2"],
        ["decompress", "x.pkc", "old.npy", "--model", "m.pcm"],
        ["reproduce", "--json", "old"],
        ["reproduce", "--report", "old"],
    ],
)
def test_a_file_that_is_there_is_kept_without_force(here: Path, arguments: list[str]) -> None:
    target = here / ("old.npy" if "old.npy" in arguments else "old")
    target.write_text("old")
    before = sorted(os.listdir(here))
    text = run(*arguments, code=2 if arguments[0] == "reproduce" else 1)
    assert "there is a file already. Hint: --force" in text
    assert target.read_text() == "old" and sorted(os.listdir(here)) == before
    if arguments[0] != "reproduce":
        run(*arguments, "--force")
        assert target.read_bytes() != b"old"


def test_an_image_of_the_folder_that_is_read_is_never_written(here: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    (here / "in").mkdir()
    pillow.fromarray(ROWS).save(here / "in" / "a.png")
    before = (here / "in" / "a.png").read_bytes()
    assert "which is read" in run("train", "in", "in/a.png", "--force", code=1)
    run("train", "in", "p.pcm", "--latents", 2, "--epochs", 1)
    assert "which is read" in run("compress", "in", "in/a.png", "--model", "p.pcm", "--force", code=1)
    assert (here / "in" / "a.png").read_bytes() == before


def test_a_redirection_of_the_shell_is_a_name_of_the_file_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``compress x.npy - >> x.npy``, and with ``< x.npy``."""
    before = (here / "x.npy").read_bytes()
    saved = os.dup(0), os.dup(1)
    try:
        with (here / "x.npy").open("rb+") as file:
            os.dup2(file.fileno(), 1)
            assert "which is read" in run("compress", "x.npy", "-", "--model", "m.pcm", code=1)
            os.dup2(saved[1], 1)
            os.dup2(file.fileno(), 0)
            assert "which is read" in run("compress", "-", "x.npy", "--model", "m.pcm", "--force", code=1)
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        os.close(saved[0])
        os.close(saved[1])
    assert (here / "x.npy").read_bytes() == before


def test_links_are_written_through_and_modes_are_kept(here: Path) -> None:
    (here / "real").mkdir()
    (here / "real" / "t.pkc").write_text("old")
    (here / "real" / "t.pkc").chmod(0o600)
    (here / "s.pkc").symlink_to("real/t.pkc")
    (here / "dangling.pkc").symlink_to("real/fresh.pkc")
    for name in ("s.pkc", "dangling.pkc"):
        run("compress", "x.npy", name, "--model", "m.pcm", "--force")
        assert (here / name).is_symlink() and (here / name).read_bytes() == (here / "x.pkc").read_bytes()
    assert stat.S_IMODE((here / "real" / "t.pkc").stat().st_mode) == 0o600
    assert sorted(os.listdir(here / "real")) == ["fresh.pkc", "t.pkc"]


def test_the_mode_of_an_old_file_is_kept_whatever_the_umask_and_its_owner_too(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda handle, user, group: owners.append((user, group)))
    (here / "t.pkc").write_text("old")
    (here / "t.pkc").chmod(0o666)
    old = os.umask(0o077)
    try:
        run("compress", "x.npy", "t.pkc", "--model", "m.pcm", "--force")
    finally:
        os.umask(old)
    assert stat.S_IMODE((here / "t.pkc").stat().st_mode) == 0o666
    assert owners == [(os.getuid(), os.getgid())]


def test_new_files_have_the_mode_that_the_umask_leaves(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)  # whoever calls it changes it for all threads
            run("decompress", "x.pkc", "y.npy", "--model", "m.pcm")
            codec.PCCodec.load("m.pcm").save("n.pcm")
            _images_of(here)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((here / name).stat().st_mode) for name in ("y.npy", "n.pcm")] == [0o640, 0o640]


def _images_of(here: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    (here / "p").mkdir()
    pillow.fromarray(ROWS).save(here / "p" / "a.png")
    run("train", "p", "p.pcm", "--latents", 2, "--epochs", 1, "--tile", "6x6")
    run("compress", "p", "p.pkc", "--model", "p.pcm")
    run("decompress", "p.pkc", "out", "--model", "p.pcm")
    assert stat.S_IMODE((here / "out").stat().st_mode) == 0o750


def test_pipes_get_what_is_written(here: Path) -> None:
    os.mkfifo("f.pkc")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(Path("f.pkc").read_bytes()))
    thread.start()
    run("compress", "x.npy", "f.pkc", "--model", "m.pcm")
    thread.join()
    assert got == [(here / "x.pkc").read_bytes()] and stat.S_ISFIFO(os.stat("f.pkc").st_mode)
    thread = threading.Thread(target=lambda: got.append(Path("f.pkc").read_bytes()))
    thread.start()
    run("decompress", "x.pkc", "f.pkc", "--model", "m.pcm")
    thread.join()
    run("decompress", "x.pkc", "y.npy", "--model", "m.pcm")
    assert got[1] == (here / "y.npy").read_bytes()
    run("compress", "x.npy", "/dev/null", "--model", "m.pcm")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_dash_is_standard_input_and_output(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What is printed goes elsewhere then."""

    def piped(*arguments: str, data: bytes) -> bytes:
        result = runner.invoke(app, [*arguments, "--model", "m.pcm"], input=data)
        assert result.exit_code == 0, result.output
        assert result.stdout == "" and result.stderr
        return capfdbinary.readouterr().out

    packed = piped("compress", "-", "-", data=(here / "x.npy").read_bytes())
    assert packed == (here / "x.pkc").read_bytes()
    back = piped("decompress", "-", "/dev/stdout", data=packed)
    run("decompress", "x.pkc", "y.npy", "--model", "m.pcm")
    assert back == (here / "y.npy").read_bytes()
    assert not (here / "-").exists()
    result = runner.invoke(app, ["test", "-", "--model", "m.pcm"], input=packed)
    assert result.exit_code == 0 and "items are whole" in result.output
    result = runner.invoke(app, ["compress", "-", "o.pkc", "--model", "m.pcm"], input=b"a,b\n1,2\n")
    assert result.exit_code == 1 and "expected an .npy or .npz in a pipe" in result.output


def test_a_file_named_dash_is_reached_by_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["compress", "x.npy", "./-"], ["decompress", "./-", "y.npy"]):
        monkeypatch.setattr(sys, "argv", ["probkernels", *arguments, "--model", "m.pcm"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert (here / "-").read_bytes() == (here / "x.pkc").read_bytes()
    assert np.array_equal(np.load("y.npy"), np.load("x.npy"))


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that ends a process, also where the suite runs under nohup."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_that_ends_a_command_leaves_no_unfinished_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = sorted(os.listdir(here))
    monkeypatch.setattr(codec.CodecWriter, "append", lambda *_: os.kill(os.getpid(), number))
    run("compress", "x.npy", "o.pkc", "--model", "m.pcm", code=128 + number)
    assert sorted(os.listdir(here)) == before
    assert signal.getsignal(number) is signal.SIG_DFL


def test_nohup_is_heeded(here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    append = codec.CodecWriter.append
    monkeypatch.setattr(codec.CodecWriter, "append", lambda *a: (os.kill(os.getpid(), number), append(*a)))
    run("compress", "x.npy", "o.pkc", "--model", "m.pcm")
    assert (here / "o.pkc").exists()


def test_folders_and_missing_folders_are_named(here: Path) -> None:
    (here / "dd").mkdir()
    assert "got a folder" in run("compress", "x.npy", "dd", "--model", "m.pcm", code=1)
    assert "there is no folder" in run("compress", "x.npy", "zz/o.pkc", "--model", "m.pcm", code=1)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        codec.PCCodec.load("m.pcm").save("zz/o.pcm")
    run("compress", "x.npy", "n" * 251 + ".pkc", "--model", "m.pcm")
    assert not [name for name in os.listdir(here) if name.startswith(".")]


def test_a_writer_that_is_forgotten_leaves_nothing(here: Path) -> None:
    before = sorted(os.listdir(here))
    writer = codec.PCCodec.load("m.pcm").writer("o.pkc")
    assert len(os.listdir(here)) == len(before) + 1
    if os.fork() == 0:  # a child that ends does not take its parent's file along
        del writer
        os._exit(0)
    os.wait()
    assert len(os.listdir(here)) == len(before) + 1
    del writer
    assert sorted(os.listdir(here)) == before


def test_an_output_that_fails_leaves_what_was_there(here: Path) -> None:
    with pytest.raises(RuntimeError), outputs.replacing("x.pkc") as file:
        file.write(b"half")
        raise RuntimeError
    assert len(codec.PCCodec.load("m.pcm").decompress((here / "x.pkc").read_bytes())) == 60
