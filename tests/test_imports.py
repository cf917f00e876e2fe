"""The import graph: rooms without cycles, and no room that reaches into another room's private names.

Imports inside functions and under ``TYPE_CHECKING`` count like all imports.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Modules = dict[str, Path]
Edges = dict[str, set[str]]

CYCLIC: set[str] = set()  # rooms that still have cycles: this set may only shrink
PRIVATE = {  # modules that still import these names: this set may only shrink
    ("tests.core.test_registry", "probkernels.cli._self_test"),
    ("tests.ops.test_program_code", "probkernels.codec._compile.room"),
}
EXEMPT = {"_core", "_C"}  # private to the package, open to its rooms


def modules(folder: Path, name: str) -> Modules:
    """Every module below a folder, by its import name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [name, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


NATIVE = {"probkernels._C": ROOT / "csrc" / "module.cpp"}  # a module, though no Python
PACKAGE = modules(ROOT / "python" / "probkernels", "probkernels") | modules(
    ROOT / "triton_kernels", "probkernels.triton_kernels"
)
OUTSIDE = modules(ROOT / "bench", "bench") | modules(ROOT / "tests", "tests") | modules(ROOT / "examples", "examples")


def imports(name: str, path: Path) -> Iterator[str]:
    """The full names that a module imports, relative ones resolved."""
    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_of(imported: str, known: Modules) -> str | None:
    """The module that an imported name lies in: the longest prefix that is one."""
    while imported and imported not in known:
        imported = imported.rpartition(".")[0]
    return imported or None


def graph(known: Modules) -> Edges:
    """Which modules each module imports."""
    edges: Edges = {}
    for name, path in known.items():
        found = {module_of(imported, known | NATIVE) for imported in imports(name, path)} - {*NATIVE}
        edges[name] = {other for other in found if other is not None and other != name}
    return edges


def cycles(edges: Edges) -> list[list[str]]:
    """Sets of modules that import one another, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def room_of(name: str) -> str:
    """The first part below the package; the package itself counts as a room."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "probkernels" else parts[0]


ROOMS = sorted({room_of(name) for name in PACKAGE})
CYCLES = cycles(graph(PACKAGE))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_import_cycles(room: str) -> None:
    found = [group for group in CYCLES if room in map(room_of, group)]
    if room in CYCLIC:
        assert found, f"{room} has no cycles any more: take it out of CYCLIC"
    else:
        assert found == []


def is_private(part: str) -> bool:
    return part.startswith("_") and not part.startswith("__")


def private_imports(known: Modules) -> Iterable[tuple[str, str]]:
    """Imports of a module or a name that another room keeps to itself."""
    for name, path in known.items():
        for imported in imports(name, path):
            parts = imported.split(".")
            foreign = parts[0] == "probkernels" and len(parts) > 1 and room_of(imported) != room_of(name)
            if foreign and parts[1] not in EXEMPT and any(map(is_private, parts[1:])):
                yield name, imported


def test_no_room_imports_private_names_of_another() -> None:
    """A test may look into the room that it tests, and nowhere else."""
    found = {*private_imports(PACKAGE), *private_imports({n: p for n, p in OUTSIDE.items() if room_of(n) != "tests"})}
    for name, imported in private_imports({n: p for n, p in OUTSIDE.items() if room_of(n) == "tests"}):
        if room_of(imported) not in name.split("."):
            found.add((name, imported))
    assert found == PRIVATE


def test_the_architecture_page_shows_the_import_graph() -> None:
    """Its table has every room and exactly what the room imports; its drawing has them above one another."""
    page = (ROOT / "docs/pages/architecture.md").read_text()
    rows = [line.strip("| ").split("|") for line in page.splitlines() if line.startswith("| `")]
    shown = {row[0].strip(" `"): set(re.findall(r"`(\w+)`", row[2])) if len(row) > 2 else set() for row in rows}
    edges = graph(PACKAGE)
    own = [room for room in ROOMS if room not in ("probkernels", "__main__")]
    found = {room: {room_of(o) for n in edges if room_of(n) == room for o in edges[n]} for room in own}
    assert shown == {room: others - {room, "probkernels"} for room, others in found.items()}
    drawing = page.split("```text\n")[1].split("```")[0]
    line_of = {word: i for i, line in enumerate(drawing.splitlines()) for word in line.split()}
    assert {room for room in own if room not in line_of} == set()
    assert all(line_of[room] <= line_of[other] for room in shown for other in shown[room])


def write(folder: Path, files: dict[str, str]) -> Modules:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return modules(folder, "probkernels")


def test_cycles_are_found_wherever_the_import_stands(tmp_path: Path) -> None:
    known = write(
        tmp_path,
        {
            "__init__.py": "",
            "a/__init__.py": "from .one import f",
            "a/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .two import g",
            "a/two.py": "def g():\n    from . import one",
            "b/three.py": "from ..a import f",
        },
    )
    assert cycles(graph(known)) == [["probkernels.a.one", "probkernels.a.two"]]


def test_private_imports_are_found(tmp_path: Path) -> None:
    text = "from ..a import _one\nfrom ..a._two import g\nfrom .._core import checks\nfrom . import _own"
    known = write(tmp_path, {"a/one.py": "from . import _two", "b/three.py": text})
    found = ["probkernels.a._one", "probkernels.a._two.g"]
    assert list(private_imports(known)) == [("probkernels.b.three", imported) for imported in found]
