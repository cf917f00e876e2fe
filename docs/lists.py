"""Writes what lists all ops, from the ops' own files: the package's ``ops/__init__.py`` and the table of README.md; and
what lists the claims about speed, from the stored runs: a table of benchmarks.md, and the figures of README.md.

``python docs/lists.py`` after an op or a stored run has come or gone; a test fails while a list is old.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OPS = ROOT / "python/probkernels/ops"
HEAD = '''"""Public ops. Each is one file here, with twins of its name in reference/, csrc/, tests/, bench/.

This file is written by ``python docs/lists.py``, from the ``__all__`` of all others.
"""
'''
TABLE = re.compile(r"(?<=<!-- ops: python docs/lists.py -->\n).*?(?=<!-- end of ops -->)", re.S)
CLAIMS = re.compile(r"(?<=<!-- claims: python docs/lists.py -->\n).*?(?=<!-- end of claims -->)", re.S)
SHOWN = ("calibration_error", "h_calibration", "kernel_targets", "overlap_index", "pairwise_softmax")  # in README.md
KERNELS = {"CPU": "csrc/cpu/{}.cpp", "CUDA": "csrc/cuda/{}.cu", "Triton": "triton_kernels/{}.py"}


def exported(path: Path) -> list[str]:
    """The ``__all__`` of a file; none if it has none."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []


def one_import(home: str, names: list[str]) -> str:
    """An import as ``ruff format`` leaves it."""
    line = f"from .{home} import {', '.join(names)}"
    return line if len(line) <= 120 else f"from .{home} import (\n" + "".join(f"    {n},\n" for n in names) + ")"


def package() -> str:
    """The text of ``ops/__init__.py``: explicit imports, which editors and type checkers follow."""
    homes = {path.stem: exported(path) for path in sorted(OPS.glob("*.py")) if path.stem != "__init__"}
    imports = [one_import(home, names) for home, names in homes.items() if names]
    names = "".join(f'    "{name}",\n' for name in sorted(name for names in homes.values() for name in names))
    return f"{HEAD}\n" + "\n".join(imports) + f"\n\n__all__ = [\n{names}]\n"


def fact(page: str, *keys: str) -> str:
    """A row of the small table at the top of an op's page."""
    found = re.search(rf"^\| (?:{'|'.join(keys)}) \| (.*) \|$", page, re.M)
    return found[1] if found else ""


def row(path: Path) -> str:
    """A page's op: its title, functions, modules, kernels and paper."""
    page, op = path.read_text(), path.stem
    title = page.splitlines()[0].removeprefix("# ")
    kernels = ["✓" if (ROOT / place.format(op)).exists() else "" for place in KERNELS.values()]
    cells = [
        f"[{title}](docs/pages/ops/{op}.md)", fact(page, "function", "functions", "class"),
        fact(page, "module", "modules"), *kernels, fact(page, "paper"),
    ]  # fmt: skip
    return "| " + " | ".join(cells).replace("|  |", "| |").replace("|  |", "| |") + " |"


def table() -> str:
    """The table of README.md."""
    pages = sorted((ROOT / "docs/pages/ops").glob("*.md"), key=lambda path: path.read_text().splitlines()[0].lower())
    head = f"| op | functions | modules | {' | '.join(KERNELS)} | paper |\n|---|---|---|---|---|---|---|\n"
    return f"\n{head}" + "\n".join(map(row, pages)) + "\n\n"


def verdicts() -> list[tuple[str, dict[str, Any]]]:
    """The verdicts of all stored runs, each with the name of its file."""
    stored = sorted((ROOT / "bench/results").glob("*.json"))
    return [(path.stem, one) for path in stored for one in json.loads(path.read_text())["probkernels"]["verdicts"]]


def claims(cases: Collection[str] | None = None) -> str:
    """The table of claims about speed: those of some cases, or of all."""
    rows = [
        f"| {one['claim']} | {one['measured']:.3g} | {one['expected']} | {'yes' if one['holds'] else 'no'} | `{run}` |"
        for run, one in verdicts()
        if cases is None or one.get("case") in cases
    ]
    if not rows:
        return "\nNo run is stored yet.\n\n"
    return "\n| claim | measured | expected | holds | run |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"


def lists() -> dict[Path, str]:
    """Every file that lists the ops or the claims, as it must be."""
    readme, page = ROOT / "README.md", ROOT / "docs/pages/benchmarks.md"
    front = TABLE.sub(lambda _: table(), readme.read_text())
    return {
        OPS / "__init__.py": package(),
        readme: CLAIMS.sub(lambda _: claims(SHOWN), front),
        page: CLAIMS.sub(lambda _: claims(), page.read_text()),
    }


if __name__ == "__main__":
    for path, text in lists().items():
        path.write_text(text)
