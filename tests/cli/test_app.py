"""The commands as a shell meets them."""

from __future__ import annotations

import importlib
import subprocess
import sys

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


def test_bench_hands_its_cases_and_options_to_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def call(command: list[str]) -> int:
        calls.append(command)
        return 5

    monkeypatch.setattr(subprocess, "call", call)
    options = ["--benchmark-autosave", "-k", "threads:1"]
    assert runner.invoke(app, ["bench", "rans", "overhead", *options]).exit_code == 5
    assert runner.invoke(app, ["bench"]).exit_code == 5
    pytest_bench = [sys.executable, "-m", "pytest", bench.__path__[0]]
    assert calls == [[*pytest_bench, "--case=rans", "--case=overhead", *options], pytest_bench]


def test_bench_says_that_pytest_benchmark_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("probkernels.cli.bench"), "find_spec", lambda name: None)
    done = runner.invoke(app, ["bench"])
    assert done.exit_code == 1 and "pip install 'probkernels[bench]'" in done.output


def test_unknown_command() -> None:
    assert runner.invoke(app, ["nonsense"]).exit_code == 2


def test_the_version_and_completion() -> None:
    from importlib import metadata

    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.output == f"probkernels {metadata.version('probkernels')}\n"
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
