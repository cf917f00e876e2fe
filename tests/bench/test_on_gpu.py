"""bench/on_gpu.sh without a GPU: what it would run, and what a failing or hanging step does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "on_gpu.sh"


def bash(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *arguments], capture_output=True, text=True, cwd=cwd, timeout=20)


def test_dry_run_prints_every_step_and_runs_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bash(str(SCRIPT), str(out), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    steps = dict(re.findall(r"^(\S+) \((\d+) s\): ", done.stdout, re.MULTILINE))
    assert list(steps) == [
        "machine",
        "build",
        "tests-doctor",
        "tests",
        "sanitizer-memcheck",
        "sanitizer-racecheck",
        "sanitizer-synccheck",
        "bench-overhead",
        "bench-power_norm",
    ]
    assert sum(map(int, steps.values())) <= 9 * 60
    for words in ("PK_CUDA=ON", "--no-build-isolation", "compute-sanitizer --tool racecheck", f"{out}/power_norm.json"):
        assert words in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--dry-run",), ("out", "--fast"), ("out", "--dry-run", "more")])
def test_usage(arguments: tuple[str, ...]) -> None:
    done = bash(str(SCRIPT), *arguments)
    assert done.returncode == 2 and "usage" in done.stderr


def test_a_failed_step_does_not_stop_the_others(tmp_path: Path) -> None:
    script = f"""
        source {SCRIPT}
        out={tmp_path}
        step one-a 5 echo first
        step one-b 5 bash -c 'echo broken >&2; exit 3'
        step two 1 sleep 10
        step three 5 true
        exit $failed
    """
    done = bash("-c", script)
    assert done.returncode == 1
    verdicts = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [(name, verdict) for name, _, _, verdict in verdicts] == [
        ("one-a", "ok"),
        ("one-b", "FAILED with exit code 3"),
        ("two", "TIMED OUT after 1 s"),
        ("three", "ok"),
    ]
    assert (tmp_path / "summary.txt").read_text() == done.stdout
    assert (tmp_path / "one.log").read_text() == "\n=== one-a\nfirst\n\n=== one-b\nbroken\n"


def test_all_steps_well_is_exit_code_0(tmp_path: Path) -> None:
    done = bash("-c", f"source {SCRIPT}; out={tmp_path}; step one 5 true; exit $failed")
    assert done.returncode == 0 and "ok" in done.stdout
