"""The commands as a shell meets them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


LIGHT = """
import importlib.util, sys, types

package = types.ModuleType("probkernels")  # whatever else the package's own __init__ may load
package.__path__ = importlib.util.find_spec("probkernels").submodule_search_locations
sys.modules["probkernels"] = package
from probkernels.__main__ import main

try:
    main()
finally:
    heavy = sorted({"torch", "numpy", "PIL", "probkernels.codec"} & set(sys.modules))
    print("HEAVY", *heavy)
"""


@pytest.mark.parametrize(
    "command", ["", "train", "compress", "decompress", "test", "inspect", "doctor", "bench", "reproduce"]
)
def test_help_loads_neither_torch_nor_numpy(command: str) -> None:
    arguments = [sys.executable, "-c", LIGHT, *command.split(), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert "Usage" in done.stdout and done.stdout.endswith("HEAVY\n"), done.stdout + done.stderr


def test_the_version_loads_neither_torch_nor_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("\nHEAVY\n"), done.stdout + done.stderr


SLOW = """
import time

print("importing", flush=True)
while True:
    try:
        time.sleep(10)
    except BaseException as error:  # as libraries do that try another way of importing something
        raise ImportError("half imported") from error
"""


def test_interrupted_while_torch_loads(tmp_path: Path) -> None:
    """One line and the exit code of an interruption, whatever a half-imported library would have made of it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", LIGHT, "inspect", "x.pkc"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "interrupted\n")


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
