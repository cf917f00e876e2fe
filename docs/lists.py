"""Writes what lists all ops: the package's ``ops/__init__.py`` and the table of README.md, from the ops' own files.

``python docs/lists.py`` after an op has come or gone; a test fails while a list is old.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPS = ROOT / "python/probkernels/ops"
HEAD = '''"""Public ops. Each is one file here, with twins of its name in reference/, csrc/, tests/, bench/.

This file is written by ``python docs/lists.py``, from the ``__all__`` of all others.
"""
'''
TABLE = re.compile(r"(?<=<!-- ops: python docs/lists.py -->\n).*?(?=<!-- end of ops -->)", re.S)
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


def lists() -> dict[Path, str]:
    """Every file that lists the ops, as it must be."""
    readme = ROOT / "README.md"
    return {OPS / "__init__.py": package(), readme: TABLE.sub(lambda _: table(), readme.read_text())}


if __name__ == "__main__":
    for path, text in lists().items():
        path.write_text(text)
