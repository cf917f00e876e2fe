"""The commands as a shell meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from probkernels import bench
from probkernels.cli import app
from typer.testing import CliRunner

runner = CliRunner()


def test_module_entry_point() -> None:
    command = [sys.executable, "-m", "probkernels", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("doctor", "reproduce", "bench"):
        assert name in done.stdout


def test_bench_hands_over_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def main(*arguments: Any) -> int:
        calls.append(arguments)
        return 1

    monkeypatch.setattr(bench, "main", main)
    assert runner.invoke(app, ["bench", "power_norm", "--compare", "--json", "out.json"]).exit_code == 1
    assert runner.invoke(app, ["bench"]).exit_code == 1
    assert calls == [(["power_norm"], True, Path("out.json")), ([], False, None)]


def test_unknown_command() -> None:
    assert runner.invoke(app, ["nonsense"]).exit_code == 2


def test_the_version_and_completion() -> None:
    from importlib import metadata

    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output == f"probkernels {metadata.version('probkernels')}\n"
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
