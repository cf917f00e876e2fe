"""Build the native module by driving CMake. Torch is not needed to build; everything else is in pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
PY_ROOT = ROOT / "python"


class CMakeBuild(build_ext):
    """Configure with CMake, compile with Ninja. PK_CUDA=AUTO|ON|OFF, PK_CUDA_ARCHS and CMAKE_ARGS set the options."""

    def build_extension(self, ext):
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        archs = os.environ.get("PK_CUDA_ARCHS")
        configure = [
            "cmake", "-S", ROOT, "-B", build, "-GNinja",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={out}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPK_VERSION={self.distribution.get_version()}",
            f"-DPK_CUDA={os.environ.get('PK_CUDA', 'AUTO')}",
            f"-DPK_CUDA_ARCHS={archs}" if archs else "-UPK_CUDA_ARCHS",
        ]  # fmt: skip
        # An isolated build leaves a cache that names tools in a deleted directory; configuring afresh costs a second.
        if (build / "CMakeCache.txt").exists() and not _cached_tools_exist(build / "CMakeCache.txt"):
            configure.append("--fresh")
        if shutil.which("ccache"):
            configure += ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        # Without build isolation CMake and Ninja lie beside Python, which need not be on PATH.
        env = {**os.environ, "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])}
        subprocess.run(configure, check=True, env=env)
        jobs = str(self.parallel or os.cpu_count() or 1)
        subprocess.run(["cmake", "--build", build, "--parallel", jobs], check=True, env=env)


def _cached_tools_exist(cache: Path) -> bool:
    tools = ("CMAKE_MAKE_PROGRAM:", "CMAKE_COMMAND:", "CMAKE_CXX_COMPILER:")
    lines = [line for line in cache.read_text().splitlines() if line.startswith(tools)]
    return all(Path(line.split("=", 1)[1]).exists() for line in lines)


def _packages() -> dict[str, Path]:
    """Import name -> directory. triton_kernels/ and bench/ live at the top of the tree but inside the package."""
    found = {name: PY_ROOT / name.replace(".", "/") for name in find_packages(str(PY_ROOT))}
    found["probkernels.triton_kernels"] = ROOT / "triton_kernels"
    found["probkernels.bench"] = ROOT / "bench"
    found["probkernels.bench.cases"] = ROOT / "bench" / "cases"
    return found


setup(
    ext_modules=[Extension("probkernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    packages=list(_packages()),
    package_dir={name: str(path.relative_to(ROOT)) for name, path in _packages().items()},
    package_data={"probkernels": ["py.typed", "_C.pyi"]},
)
