"""Formatters, linters and types. A tool that is not installed is skipped with the reason."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = [str(path) for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in (".h", ".cpp", ".cu")]

COMMANDS = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary"],
    "clang-format": ["clang-format", "--dry-run", "-Werror", *NATIVE],
    "bash": ["bash", "-n", *map(str, sorted((ROOT / "bench").rglob("*.sh")))],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_clean(name: str) -> None:
    tool, *arguments = COMMANDS[name]
    path = shutil.which(tool, path=sysconfig.get_path("scripts")) or shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([path, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_native_source_is_checked() -> None:
    assert {Path(path).suffix for path in NATIVE} >= {".h", ".cpp"}
