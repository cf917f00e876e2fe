"""Every writer of the package, at a link to a file that only its owner may read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from probkernels import codec, sparse
from probkernels._core import outputs
from probkernels.circuits import EM, factorized, hclt, save
from probkernels.reproduce.harness import report

X = torch.randint(0, 4, (40, 3), generator=torch.Generator().manual_seed(0))


def _delta(path: Path) -> None:
    sparse.attach(torch.nn.Linear(4, 4), threshold=0.5).delta().save(path)


def _container(path: Path) -> None:
    with codec.PCCodec(factorized(X, categories=4)).writer(path) as writer:
        writer.append(X.byte().numpy())


def _checkpoint(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)  # one that is there would be read
    EM(hclt(X, latents=2), batch_size=None).fit(X, epochs=1, checkpoint=path, progress=False)


WRITERS: dict[str, Callable[[Path], None]] = {
    "circuit": lambda path: save(factorized(X, categories=4), path),
    "model": lambda path: codec.PCCodec(factorized(X, categories=4)).save(path),
    "container": _container,
    "delta": _delta,
    "checkpoint": _checkpoint,
    "report": lambda path: report.write(path, "report"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_links_and_modes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", None)  # whoever calls it changes it for all threads
    target, link = tmp_path / "real" / "file", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to("real/file")
    WRITERS[name](link)
    assert link.is_symlink() and target.read_bytes() != b"old"
    if name != "checkpoint":
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["link", "real"] and os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "checkpoint"])
def test_pipes(name: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    WRITERS[name](Path(f"/dev/fd/{write}"))
    os.close(write)
    WRITERS[name](tmp_path / "file")
    with os.fdopen(read, "rb") as pipe:
        got = pipe.read()
    if name in ("circuit", "delta"):  # safetensors orders its metadata at random
        assert len(got) == (tmp_path / "file").stat().st_size
    else:
        assert got == (tmp_path / "file").read_bytes()


def test_a_link_in_circles_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError):
        outputs.write_bytes(tmp_path / "a", b"")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


def test_a_closed_standard_stream_is_no_other_file(tmp_path: Path) -> None:
    """What is printed to it goes nowhere, and data raises."""
    script = """
import os, sys
from probkernels._core import outputs
outputs.hold_standard_streams()
with outputs.replacing("out") as file:
    os.system("echo text; echo text >&2")
    print("text"), print("text", file=sys.stderr), file.write(b"data")
for use in (lambda: outputs.write_bytes("-", b"data"), lambda: sys.stdin.buffer.read()):
    try:
        use()
    except OSError:
        continue
    raise SystemExit(3)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and (tmp_path / "out").read_bytes() == b"data"
