"""Facts that are needed to interpret a figure: the machine, its load, and its software."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from probkernels._core import native

ROOT = Path(__file__).resolve().parent.parent
SIMD = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve")


def _run(*command: str) -> str | None:
    """Output of a command, None when it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _proc_value(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _gpu_facts() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    query = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
    smi = _run("nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader")
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        **(dict(zip(query.split(","), (v.strip() for v in smi.split(",")), strict=True)) if smi else {}),
    }


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, Any]:
    """Processor, cores, vector extensions, caches, pages, memory and GPU. No host name."""
    flags = (_proc_value("/proc/cpuinfo", "flags") or _proc_value("/proc/cpuinfo", "Features")).split()
    return {
        "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": cores(),
        "flags": sorted(flag for flag in flags if flag.startswith(SIMD)),
        "caches": _caches(),
        "page_bytes": mmap.PAGESIZE,
        "memory": _proc_value("/proc/meminfo", "MemTotal"),
        "system": platform.system(),
        "gpu": _gpu_facts(),
    }


def _caches() -> dict[str, str]:
    """Sizes of the caches that core 0 sees, by level and type, where the system tells: {"L1 Data": "32K"}."""
    found = {}
    for path in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = ((path / name).read_text().strip() for name in ("level", "type", "size"))
            found[f"L{level} {kind}"] = size
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def software_facts() -> dict[str, Any]:
    """Commit (with a flag for uncommitted changes) and versions of all that shapes a figure."""
    in_checkout = (ROOT / ".git").exists()
    status = _run("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no") if in_checkout else None
    return {
        "commit": _run("git", "-C", str(ROOT), "rev-parse", "HEAD") if in_checkout else None,
        "dirty": None if status is None else bool(status),
        "probkernels": _installed("probkernels"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _installed("triton"),
        "python": platform.python_version(),
        "build_info": native.build_info(),
    }


def load() -> float:
    """Runnable processes of the whole machine, averaged over a minute."""
    return os.getloadavg()[0]


def is_noisy(load_before: float, load_after: float, core_count: int) -> bool:
    """Whether more was runnable than there are cores. This run alone fills them, so what it left behind gets a
    tenth of grace."""
    return load_before > core_count or load_after > 1.1 * core_count
