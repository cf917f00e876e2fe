"""The backends to test in this process, and the two that only tests have.

``cuda_emu`` runs csrc/cuda/*.cu on CPU tensors: the same sources, compiled by the C++ compiler against csrc/emu.
``triton_interp`` runs triton_kernels/ on CPU tensors in Triton's interpreter, which a process must ask for with
TRITON_INTERPRET=1 before it imports triton.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from probkernels._core import backend

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
]
DEFINES = ["-DPK_EMULATE", "-DPK_MODULE=_emu", '-DPK_VERSION="emulator"']
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def names() -> list[str]:
    """The backends to test here, in the order of a report."""
    if INTERPRETED:  # in this process compiled Triton kernels do not exist, and everything else is tested elsewhere
        return ["triton_interp"]
    return ["reference", "cpu", "cuda_emu"] + (["cuda", "triton"] if torch.cuda.is_available() else [])


def device(name: str) -> torch.device:
    """Where the tensors that ``name`` is tested with live."""
    return torch.device(backend.BACKENDS[name].device or "cpu")


def skip_reason(name: str) -> str | None:
    """Why ``name`` cannot be tested on this machine, or None."""
    if name == "cuda_emu":
        return None if compiler() else "no C++ compiler: set CXX or put g++ on PATH"
    if name == "triton_interp":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return None if INTERPRETED else "start the process with TRITON_INTERPRET=1"
    return backend.BACKENDS[name].problem()


def compiler() -> str | None:
    """The C++ compiler's path."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "c++", "clang++"))), None)


def build_emulator(extra_flags: tuple[str, ...] = (), sources: tuple[Path, ...] = ()) -> Path:
    """Compiles ``sources`` (all of csrc/cuda and csrc/module.cpp by default) into a shared library for the CPU.

    Objects are cached by everything that goes into them, so a changed kernel recompiles alone.
    """
    sources = sources or (*sorted((ROOT / "csrc/cuda").glob("*.cu")), ROOT / "csrc/module.cpp")
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "emu.lock", "w") as lock, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test workers may get here at once
        flags = [*FLAGS, *DEFINES, *extra_flags]
        objects = list(pool.map(lambda source: _compile(source, flags), sources))
        library = BUILD / f"emu-{_digest(*map(str, objects), *flags)}" / "_emu.so"
        _make(library, [compiler(), "-shared", *extra_flags, *map(str, objects), "-pthread"])
        return library


def _compile(source: Path, flags: list[str]) -> Path:
    import pybind11

    includes = [ROOT / "csrc/include", ROOT / "csrc/emu", pybind11.get_include(), sysconfig.get_path("include")]
    command = [compiler(), *flags, *(f"-I{path}" for path in includes), "-x", "c++", "-c", str(source)]
    texts = [path.read_text() for path in (source, *_headers())]
    output = BUILD / "emu-objects" / f"{source.stem}-{_digest(_compiler_version(), *command, *texts)}.o"
    ccache = shutil.which("ccache")
    return _make(output, [*([ccache] if ccache else []), *command])


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _headers() -> list[Path]:
    return sorted([*(ROOT / "csrc/include").rglob("*.h"), *(ROOT / "csrc/emu").glob("*.h")])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _make(output: Path, command: list[str]) -> Path:
    """Runs ``command -o output`` unless the output exists; it appears complete or not at all."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            fresh = Path(folder) / output.name
            environment = {**os.environ, "CCACHE_BASEDIR": str(ROOT), "CCACHE_NOHASHDIR": "1"}  # for every checkout
            words = [*command, "-o", str(fresh)]
            done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
            fresh.rename(output)
    return output


@functools.cache
def emulator() -> ModuleType:
    """The native module with every CUDA launcher, run on the CPU. PK_EMULATOR names one built with other flags."""
    path = os.environ.get("PK_EMULATOR") or build_emulator()
    spec = importlib.util.spec_from_file_location("_emu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _problem(name: str) -> str | None:
    if backend._forced != name:  # an op must never choose these on its own
        return "only for tests, with use_backend"
    return skip_reason(name)


for _name, _kind in (("cuda_emu", "cuda"), ("triton_interp", "triton")):
    backend.BACKENDS[_name] = backend.Backend(_name, _kind, "cpu", functools.partial(_problem, _name), emulator)
