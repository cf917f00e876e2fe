"""The rules of the house, checked: twins of every op, layers, private torch names, sizes, docstrings, doctests."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import probkernels
import pytest
import torch
from probkernels._core.registry import OPS, Op

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "probkernels"

# --- twins: one op family, one basename in every room ---

TWINS = {
    "reference": "python/probkernels/reference/{}.py",
    "op": "python/probkernels/ops/{}.py",
    "cpu": "csrc/cpu/{}.cpp",
    "cuda": "csrc/cuda/{}.cu",
    "triton": "triton_kernels/{}.py",
    "test": "tests/ops/test_{}.py",
    "bench": "bench/cases/{}.py",
    "docs": "docs/pages/ops/{}.md",
}
GPU_ROOMS = ("cuda", "triton")


def missing_twins(op: Op, root: Path) -> list[str]:
    """Files that ``op`` must have and has not: those of its kernels, and those that every op has."""
    rooms = set(TWINS) - set(GPU_ROOMS) | set(op.kernels)
    wanted = [TWINS[room].format(op.family) for room in TWINS if room in rooms]
    missing = [path for path in wanted if not (root / path).exists()]
    if not set(GPU_ROOMS) & set(op.kernels):
        missing.append(" or ".join(TWINS[room].format(op.family) for room in GPU_ROOMS))
    return missing


def strays(root: Path, families: set[str]) -> list[str]:
    """Files in an op's room that no registered op is named after; a leading underscore marks shared helpers."""
    found = []
    for room in ("reference", "op", "cpu", "cuda", "triton", "docs"):
        folder, name = TWINS[room].rsplit("/", 1)
        for path in sorted((root / folder).glob(name.format("*"))):
            if path.stem not in families and not path.stem.startswith("_"):
                found.append(str(path.relative_to(root)))
    return found


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_its_twins(name: str) -> None:
    assert missing_twins(OPS[name], ROOT) == []


def test_every_file_belongs_to_an_op() -> None:
    assert strays(ROOT, {op.family for op in OPS.values()}) == []


FEW = 2  # examples an op has: each runs through some fifteen composition tests
MORE = {"power_norm_fwd": 3, "rans_encode": 4, "rans_push": 4, "rans_pop": 4, "stochastic_gate": 3}  # may only shrink


@pytest.mark.parametrize("name", OPS)
def test_an_op_has_few_examples(name: str) -> None:
    assert 1 <= len(OPS[name].examples(torch.device("cpu"), torch.float64)) <= MORE.get(name, FEW)


def test_a_missing_twin_and_a_stray_are_found(tmp_path: Path) -> None:
    op = OPS["power_norm_fwd"]
    for template in TWINS.values():
        (tmp_path / template.format(op.family)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / template.format(op.family)).touch()
    assert missing_twins(op, tmp_path) == []
    (tmp_path / "csrc/cuda/power_norm.cu").rename(tmp_path / "csrc/cuda/powernorm.cu")
    assert missing_twins(op, tmp_path) == ["csrc/cuda/power_norm.cu"]
    assert strays(tmp_path, {op.family}) == ["csrc/cuda/powernorm.cu"]


# --- layers: each may import only what lies below it ---

LAYERS = (
    ("_C",),
    ("_core",),
    ("reference", "triton_kernels"),
    ("ops",),
    ("sparse",),
    ("training",),
    ("uncertainty",),
    ("kernel_methods",),
    ("nn", "optim", "circuits", "codec", "diffusion"),
    ("codec", "blackbox", "local_learning", "bnn", "amortized", "inverse", "energy"),
    ("sequence",),
    ("probkernels",),  # the package's own __init__, which gathers the layers below
    ("reproduce", "bench"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the installed package, by its import name."""
    places = ((PACKAGE, ""), (ROOT / "triton_kernels", ".triton_kernels"), (ROOT / "bench", ".bench"))
    found = {}
    for folder, prefix in places:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            tail = "".join(f".{part}" for part in parts if part != "__init__")
            found[f"probkernels{prefix}{tail}"] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> Iterator[str]:
    """The names that a module imports, in full: those inside functions and for type checkers too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(imported: str) -> str | None:
    """The room of the package that an imported name lies in; None for other packages."""
    parts = imported.split(".")
    if parts[0] != "probkernels":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "probkernels"


def upward_imports(name: str, path: Path) -> list[str]:
    """Imports of a module that reach its own layer's other rooms or above."""
    own = room_of(name)
    rooms = ((imported, room_of(imported)) for imported in imports(name, path))
    return [imported for imported, room in rooms if room not in (None, own) and RANK[room] >= RANK[own]]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    assert upward_imports(name, MODULES[name]) == []


def test_only_core_reaches_raw_launchers() -> None:
    users = {room_of(name) for name, path in MODULES.items() for i in imports(name, path) if room_of(i) == "_C"}
    assert users == {"_core"}


def test_every_room_has_a_layer() -> None:
    assert {room_of(name) for name in MODULES} <= set(RANK)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))} <= set(RANK)


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "power_norm.py"
    path.write_text(
        "import torch\nfrom .._core import checks\nfrom . import other\ndef f():\n    from ..nn import PowerNorm\n"
    )
    assert upward_imports("probkernels.ops.power_norm", path) == ["probkernels.nn.PowerNorm"]


# --- private torch names: only the core knows them ---


def private_torch_names(path: Path) -> list[str]:
    """``torch.a._b`` wherever it is imported or used, by the full name that the source spells."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *parts = name.split(".")
            if root == "torch" and any(part.startswith("_") and not part.startswith("__") for part in parts):
                found.append(name)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) != "_core"])
def test_private_torch_names_stay_in_core(name: str) -> None:
    assert private_torch_names(MODULES[name]) == []


def test_private_torch_names_are_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("from torch._functorch import vmap\nfrom torch import nn\ntorch.autograd.__name__, torch.a._b(x)\n")
    assert private_torch_names(path) == ["torch._functorch.vmap", "torch.a._b"]


# --- one place for what every room needs: checks, digests, files that are replaced ---

ONE_PLACE = {
    re.compile(r"isinstance\((\w+), bool\) or not isinstance\(\1, int\)"): {
        "_core.checks",
        "circuits.graph",
        "circuits.queries",
    },
    re.compile(r"\bhashlib\b"): {"_core.digests"},
    re.compile(r"\bos\.(replace|rename)\("): {"_core.outputs"},
}


@pytest.mark.parametrize("pattern", ONE_PLACE)
def test_shared_helpers_are_not_written_again(pattern: re.Pattern[str]) -> None:
    """The exceptions are a file's parser, whose errors name no argument, and a list of which all are checked."""
    found = {name.removeprefix("probkernels.") for name, path in MODULES.items() if pattern.search(path.read_text())}
    assert found == ONE_PLACE[pattern]


# --- sizes ---

CODE = {".py", ".pyi", ".cpp", ".cu", ".h", ".sh"}
ROOMS = ("csrc", "python", "triton_kernels", "tests", "bench", "examples")


def test_files_are_short() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in CODE]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert len(lines) > 30
    assert {name: count for name, count in lines.items() if count > 400} == {}


def lengths(tree: ast.AST) -> dict[str, int]:
    """Lines of every function's body: neither its docstring nor the functions defined inside it count."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            inner = [part for part in body if isinstance(part, ast.FunctionDef)]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            found[node.name] = lines - sum(part.end_lineno - part.lineno + 1 for part in inner)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    assert {function: lines for function, lines in lengths(tree).items() if lines > 60} == {}


# --- nothing stands twice ---

MOST_EQUAL = 9  # lines in a row that two places may share


def repeated(files: list[Path], root: Path) -> list[str]:
    """Runs of more than ``MOST_EQUAL`` equal lines; neither blank lines nor indentation count."""
    first: dict[tuple[str, ...], str] = {}
    found, window = [], MOST_EQUAL + 1
    for path in sorted(files):
        lines = [(n, line.strip()) for n, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
        for start in range(len(lines) - window + 1):
            key = tuple(line for _, line in lines[start : start + window])
            place = f"{path.relative_to(root)}:{lines[start][0]}"
            if first.setdefault(key, place) != place:
                found.append(f"{place} repeats {first[key]}")
    return found


def test_no_block_of_lines_stands_twice() -> None:
    rooms = ("python", "triton_kernels", "csrc", "bench")
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in CODE]
    assert len(files) > 100
    assert repeated(files, ROOT) == []


def test_a_repeated_block_is_found(tmp_path: Path) -> None:
    lines = [f"x{n} = {n}" for n in range(MOST_EQUAL + 1)]
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("import torch\n" + "\n".join(lines))
    two.write_text("if True:\n    " + "\n\n    ".join(lines))
    assert repeated([one, two], tmp_path) == ["b.py:2 repeats a.py:2"]
    two.write_text("\n".join(lines[1:]))
    assert repeated([one, two], tmp_path) == []


# --- docstrings ---


def public(*rooms: str) -> dict[str, object]:
    """The functions and classes that a room's ``__all__`` names."""
    found = {}
    for room in rooms:
        module = importlib.import_module(f"probkernels.{room}")
        found.update({f"{room}.{name}": getattr(module, name) for name in module.__all__})
    return found


PUBLIC = public(
    "ops",
    "training",
    "nn",
    "sparse",
    "optim",
    "circuits",
    "codec",
    "diffusion",
    "uncertainty",
    "kernel_methods",
    "blackbox",
    "bnn",
    "local_learning",
    "amortized",
    "sequence",
    "inverse",
    "energy",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_show_an_example(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert "Example:\n" in text
    assert ">>> " in text


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isclass(value)])
def test_public_methods_are_described(name: str) -> None:
    ours = [base for base in inspect.getmro(PUBLIC[name]) if base.__module__.startswith("probkernels")]
    methods = {method: value for base in ours for method, value in vars(base).items() if inspect.isfunction(value)}
    assert [m for m, value in methods.items() if not m.startswith("_") and not value.__doc__] == []


@pytest.mark.parametrize("name", [name for name in MODULES if ">>> " in MODULES[name].read_text()])
def test_examples_run(name: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert attempted > 0
    assert failed == 0


def test_the_package_names_what_it_exports() -> None:
    assert [name for name in probkernels.__all__ if not hasattr(probkernels, name)] == []


# --- what lists the ops ---


def test_lists_of_ops_and_claims_are_those_of_their_files() -> None:
    lists = runpy.run_path(str(ROOT / "docs/lists.py"))["lists"]()
    old = [str(path.relative_to(ROOT)) for path, text in lists.items() if path.read_text() != text]
    assert old == [], "run: python docs/lists.py"
    assert len(lists) == 3


def test_every_family_shows_something() -> None:
    """What a file of an op keeps to itself, nobody can call."""
    homes = {value.__module__.rpartition(".")[2] for name, value in PUBLIC.items() if name.startswith("ops.")}
    assert {op.family for op in OPS.values()} - homes == set()
