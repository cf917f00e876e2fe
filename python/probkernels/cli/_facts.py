"""Facts about the machine and the installation, for doctor."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from typing import Any

import torch

from .._core import native
from .._core.backend import BACKENDS

BY_HAND = "0"  # the native module's version when CMake ran without setup.py
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET")


def versions() -> dict[str, str | None]:
    """Versions of the relevant packages; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "system": platform.platform()}
    for name in ("probkernels", "torch", "triton", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def native_module() -> dict[str, Any]:
    """Build info of the native module, or the reason why it did not load."""
    return {"loaded": native.module is not None, **native.build_info()}


def cuda() -> dict[str, Any]:
    """CUDA versions of the driver and of torch's runtime (None: absent), and the devices that torch sees."""
    devices = []
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        devices.append(f"{device.name} (sm_{device.major}{device.minor}, {device.total_memory / 2**30:.0f} GiB)")
    return {"driver": _driver(), "runtime": torch.version.cuda, "devices": devices}


def _driver() -> str | None:
    """The newest CUDA version that the driver supports, from the driver itself: torch may be a CPU build."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return "installed, but it does not answer"
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def threads() -> dict[str, int | None]:
    """Number of threads that CPU kernels use, and of cores."""
    return {"torch": torch.get_num_threads(), "usable CPUs": len(os.sched_getaffinity(0)), "CPUs": os.cpu_count()}


def environment() -> dict[str, str]:
    """Environment variables that are set and change the library's behavior."""
    return {key: value for key, value in sorted(os.environ.items()) if key.startswith("PK_") or key in VARIABLES}


def backends() -> dict[str, str]:
    """Maps each backend to "ready" or to the reason why it cannot be used on this machine."""
    return {name: backend.problem() or "ready" for name, backend in BACKENDS.items()}


def problems() -> list[str]:
    """Problems of the installation itself."""
    if native.problem:
        return [native.problem]
    ours, built = importlib.metadata.version("probkernels"), native.build_info().get("version")
    found = []
    if built not in (ours, BY_HAND):
        found.append(f"the native module was built from version {built}, the Python files are {ours}; reinstall")
    if not native.build_info().get("openmp"):
        found.append(
            "the native module was built without OpenMP: CPU kernels use one thread; rebuild where it is found"
        )
    return found
