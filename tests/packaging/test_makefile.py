"""What `make` says when something it needs is missing, and what it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from probkernels import reproduce

ROOT = Path(__file__).resolve().parents[2]

# A python3 that refuses code in which a word occurs.
PYTHON = """#!/bin/sh
case "$2" in *{missing}*) exit 1;; esac
exec {python} "$@"
"""


def make(tmp_path: Path, **variables: str) -> str:
    """What `make test` prints when it fails, with an environment folder that does not exist yet."""
    settings = {"VENV": str(tmp_path / "venv"), "PYTHON": sys.executable, **variables}
    command = ["make", "--no-print-directory", "test", *(f"{k}={v}" for k, v in settings.items() if k != "CXX")]
    environment = {**os.environ, "CXX": variables.get("CXX", "c++")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert not (tmp_path / "venv").exists()
    return done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("missing", "hint"),
    [("version_info", "PYTHON=python3.12"), ("ensurepip", "python3-venv"), ("Python.h", "python3-dev")],
)
def test_an_unfit_python_is_explained(missing: str, hint: str, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(PYTHON.format(missing=missing, python=sys.executable))
    python.chmod(0o755)
    assert hint in make(tmp_path, PYTHON=str(python))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_missing_compiler_is_explained(tmp_path: Path) -> None:
    assert "apt install g++" in make(tmp_path, CXX="/nonexistent/c++")


def test_the_demo_shows_methods_that_exist() -> None:
    names = re.search(r"^DEMO := (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    assert set(names) <= set(reproduce.names())
    assert len(names) == len(set(names)) >= 4
