"""What a source distribution contains: all that its own tests need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {".ci/run", ".gitignore"}  # of no use without the repository


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no repository to compare with")
def test_a_source_distribution_has_every_file(tmp_path: Path) -> None:
    """Golden files and stored results too; setuptools lists them as it would pack them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120)
    (sources,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    packed = set(sources.read_text().splitlines())
    assert {path for path in listed.splitlines() if (ROOT / path).exists()} - packed <= LEFT_OUT
    assert {"tests/codec/golden/v1_flow_5.pkc", "docs/pages/assets/iframe-worker.js"} <= packed
    assert any(path.startswith("bench/results/") for path in packed)
