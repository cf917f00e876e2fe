"""Building, packing and installing: each from a copy of the tree, into an environment of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import probkernels
import pytest
from probkernels._core import native

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".*cache", ".hypothesis", ".venv*", "build", "dist", "site", "*.egg-info", "*.so"
)
SUFFIXES = {".cpp", ".cu", ".h", ".py", ".pyi", ".sh", ".md"}

# Where ccache is installed, the builds without optimization compile each source once: what it sees of a source does not
# depend on the temporary folder that pip builds in.
CCACHE = {"CCACHE_BASEDIR": tempfile.gettempdir(), "CCACHE_NOHASHDIR": "1", "CCACHE_COMPILERCHECK": "content"}

SMOKE = """
import torch, probkernels as pk, probkernels.bench
from importlib.metadata import version
from probkernels._core import native
assert native.problem is None, native.problem
assert pk.__version__ == version("probkernels") == native.build_info()["version"]
x = torch.randn(64, 32, requires_grad=True)
with pk.use_backend("cpu"):
    y, mean_sq = pk.ops.power_norm(x, torch.ones(32))
y.sum().backward()
print(torch.__file__, pk.__file__)
"""


def run(*command: object, cwd: Path | None = None, fails: bool = False, **environment: str) -> str:
    """Output of a command that must succeed, or with ``fails`` must not; builds are for the CPU unless told."""
    words = [str(word) for word in command]
    env = {**os.environ, "PK_CUDA": "OFF", **CCACHE, **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(words, cwd=cwd, env=env, timeout=900, **pipes)
    assert (done.returncode != 0) is fails, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def pip(environment: Path, *arguments: object, **variables: str) -> str:
    """Runs pip for another environment, which needs no pip of its own."""
    python = environment / "bin" / "python"
    return run(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments, **variables)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """An empty virtual environment."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    return tmp_path / "env"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, as a fresh clone has them."""
    return copy_tree(tmp_path / "tree")


def copy_tree(to: Path) -> Path:
    shutil.copytree(ROOT, to, ignore=NOT_SOURCES)
    return to


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    tree = copy_tree(folder / "tree")
    make = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", make, cwd=tree)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds from the sdist, in isolation. A C++ source may take 9 CPU seconds on average, and a
    quarter more beside other tests."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pip(folder / "env", "wheel", "--no-deps", "--wheel-dir", folder, sdist, CCACHE_DISABLE="1")  # its time counts
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sources = len([*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp")])
    assert seconds < 1.25 * 9 * sources, f"building the wheel from {sources} sources took {seconds:.0f} CPU seconds"
    return next(folder.glob("*.whl"))


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """The C++ compiler without optimization: these tests ask how things install; building the sdist optimizes."""
    script = tmp_path / "c++"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


def works_in(environment: Path, elsewhere: Path) -> Path:
    """Runs an op there with the torch of this process; gives the folder of the package that did it."""
    library = next((environment / "lib").glob("python*/site-packages"))
    (library / "host.pth").write_text(sysconfig.get_path("purelib") + "\n")  # searched after the environment's own
    torch_file, package = run(environment / "bin" / "python", "-c", SMOKE, cwd=elsewhere).split()[-2:]
    assert torch_file.startswith(sysconfig.get_path("purelib"))
    return Path(package).parent


@pytest.mark.slow
def test_pip_install(tree: Path, clean: Path, tmp_path: Path, compiler: str) -> None:
    pip(clean, "install", "--no-deps", tree, CXX=compiler)
    assert clean in works_in(clean, tmp_path).parents


@pytest.mark.slow
def test_pip_install_editable(tree: Path, clean: Path, tmp_path: Path, compiler: str) -> None:
    pip(clean, "install", "--no-deps", "--editable", tree, CXX=compiler)
    assert works_in(clean, tmp_path) == tree / "python/probkernels"


@pytest.mark.slow
def test_pip_wheel(tree: Path, clean: Path, tmp_path: Path, compiler: str) -> None:
    pip(clean, "wheel", "--no-deps", "--wheel-dir", tmp_path, tree, CXX=compiler)
    pip(clean, "install", "--no-deps", "--no-index", next(tmp_path.glob("*.whl")))
    assert clean in works_in(clean, tmp_path).parents


@pytest.mark.slow
def test_wheel_from_sdist(wheel: Path, clean: Path, tmp_path: Path) -> None:
    pip(clean, "install", "--no-deps", "--no-index", wheel)
    assert clean in works_in(clean, tmp_path).parents


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    tree = sdist.parent / "tree"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {"probkernels", f"probkernels-{version('probkernels')}.dist-info"}
    sources = {str(path.relative_to(tree / "python")) for path in (tree / "python").rglob("*.py")}
    for room in ("triton_kernels", "bench"):
        sources |= {f"probkernels/{path.relative_to(tree)}" for path in (tree / room).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"probkernels/py.typed", "probkernels/_C.pyi"} <= set(names)
    (binary,) = [name for name in names if ".so" in name]
    needed = set(re.findall(r"NEEDED.*\[([\w+-]+)\.so", run("readelf", "--dynamic", "--wide", tmp_path / binary)))
    assert needed <= {"libstdc++", "libm", "libgomp", "libgcc_s", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


@pytest.mark.slow
def test_sdist_holds_what_tests_and_kernels_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tree = sdist.parent / "tree"
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.suffix in SUFFIXES}
    files |= {"CMakeLists.txt", "Makefile", "LICENSE", "tests/constraints.txt", "docs/mkdocs.yml"}
    assert sorted(files - names) == []


@pytest.mark.slow
def test_installing_the_wheel_replaces_nothing(wheel: Path) -> None:
    """pip finds this process's torch and every other dependency good enough."""
    report = run(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", wheel)
    plan = json.loads(report[report.index("{") :])["install"]
    assert {item["metadata"]["name"] for item in plan} <= {"probkernels"}


def test_missing_cuda_compiler_is_explained(tree: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext"]
    output = run(*command, cwd=tree, fails=True, PK_CUDA="ON", CUDACXX="/nonexistent/nvcc")
    assert "put nvcc on PATH or set CUDACXX" in " ".join(output.split())


def test_the_version_is_one() -> None:
    assert probkernels.__version__ == version("probkernels") == native.build_info()["version"]
    assert f'version = "{probkernels.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {probkernels.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_tool_is_pinned() -> None:
    """What the extras ask for has its version in tests/constraints.txt, so that `make` gives everyone the same."""
    names = {re.match(r"[\w-]+", requirement).group() for requirement in requires("probkernels") or ()}
    pins = set(re.findall(r"^([\w-]+)==", (ROOT / "tests/constraints.txt").read_text(), re.M))
    assert names - pins <= {"probkernels"}
