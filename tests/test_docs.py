"""The documentation builds without a warning, and every Python block in it runs."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from probkernels import reproduce

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/pages").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def python(*arguments: str, cwd: Path) -> str:
    """Output of a fresh interpreter, which must succeed."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(BLOCK.findall(PAGES[0].read_text()))))
def test_each_block_of_the_readme_runs_alone(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "block.py").write_text(BLOCK.findall(PAGES[0].read_text())[number])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("block.py", run_name="__main__")


@pytest.mark.parametrize("page", [p for p in PAGES[1:] if BLOCK.search(p.read_text())], ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, in order and in one namespace; in a process of their own where they register an op."""
    code = "\n".join(BLOCK.findall(page.read_text()))
    script = tmp_path / "page.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    if "import Op" in code:
        python(str(script), cwd=tmp_path)
    else:
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    config = ROOT / "docs/mkdocs.yml"
    python("-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(tmp_path), cwd=ROOT)
    page = (tmp_path / "ops/power_norm.html").read_text()
    assert "PowerNorm" in page
    # The search works from a disk: its index is a script, and the stand-in for workers is the site's own.
    assert (tmp_path / "search/search_index.js").read_text().startswith("var __index = {")
    assert '<script src="../assets/iframe-worker.js">' in page and "https://unpkg.com" not in page
    assert all(f"methods/{name}.html" in (tmp_path / "reproduction.html").read_text() for name in reproduce.names())
    assert "ops/rans.html" in (tmp_path / "index.html").read_text()


def test_every_method_has_a_page() -> None:
    assert sorted(path.stem for path in (ROOT / "docs/pages/methods").glob("*.md")) == reproduce.names()
