"""What the CUDA kernels need of a GPU, from the assembler: no spilled registers, and no more registers than recorded.

``python -m tests.ptxas`` writes the records, one JSON file a .cu file, after a change that was meant to cost registers.
Numbers of different compilers do not compare, so a record counts only for the nvcc that made it; spills always do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backends import ROOT

ARCH = "sm_90"
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for .*?"
    r"(?P<spill>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers(?:.*?(?P<smem>\d+) bytes smem)?"
)
Usage = dict[str, dict[str, int]]


def record_of(source: Path) -> Path:
    return Path(__file__).parent / f"{source.stem}.json"


def nvcc_version() -> str:
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"release .*", text)[0]


def demangled(name: str) -> str:
    """A kernel's name without namespaces and parameters."""
    text = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"pk::|\(anonymous namespace\)::|^void ", "", text)
    depth = 0
    for i, character in enumerate(text):  # the parameters begin at the first parenthesis outside template arguments
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return text[:i]
    return text


def usage(source: Path, folder: Path) -> Usage:
    """Registers, shared memory and spills in bytes of every kernel in ``source``."""
    command = ["nvcc", "-std=c++17", "-O3", f"-arch={ARCH}", "-Xptxas", "-v", f"-I{ROOT / 'csrc/include'}"]
    command += ["-c", str(source), "-o", str(folder / "kernels.o")]
    ccache = shutil.which("ccache")  # gives the report of the assembler again
    words = [*([ccache] if ccache else []), *command]
    environment = {**os.environ, "CCACHE_BASEDIR": str(ROOT)}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.replace("\n", " ").split("ptxas info    : Compiling")[1:]
    found = [match for line in lines if (match := KERNEL.search("Compiling" + line))]
    assert len(found) == len(lines) > 0, "ptxas writes its report in a form that this test does not know"
    return {
        demangled(m["name"]): {k: int(m[k] or 0) for k in ("registers", "smem", "spill")}
        for m in sorted(found, key=lambda m: demangled(m["name"]))
    }


def write_records(folder: Path) -> None:
    """Records what every kernel uses now."""
    for source in SOURCES:
        kernels = {name: [u["registers"], u["smem"]] for name, u in usage(source, folder).items()}
        rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in kernels.items())
        head = f'  "nvcc": {json.dumps(nvcc_version())},\n  "arch": "{ARCH}",\n  "registers, shared bytes": '
        record_of(source).write_text(f"{{\n{head}{{\n{rows}\n  }}\n}}\n")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt (binutils) is not on PATH")
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_registers_and_spills(source: Path, tmp_path: Path) -> None:
    now = usage(source, tmp_path)
    assert {name: u["spill"] for name, u in now.items() if u["spill"]} == {}, "spilled bytes"
    record = json.loads(record_of(source).read_text())
    assert record["arch"] == ARCH
    if record["nvcc"] != nvcc_version():
        pytest.skip(f"no spills; registers were recorded with nvcc {record['nvcc']}")
    allowed = record["registers, shared bytes"]
    assert set(now) == set(allowed), "kernels came or went: run python -m tests.ptxas"
    above = {name: (u["registers"], allowed[name][0]) for name, u in now.items() if u["registers"] > allowed[name][0]}
    assert above == {}, "registers now, recorded"
