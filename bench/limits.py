"""Measures the limits of this machine, rather than reading a data sheet: memory, GEMM, launch and call floor."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from .case import Run
from .timing import Plan, make_timer, quantile, take_turns

STREAM_BYTES = {"cpu": (1 << 20, 16 << 20, 128 << 20), "cuda": (16 << 20, 256 << 20, 2 << 30)}
GEMM_SIZE = {"cpu": 512, "cuda": 8192}
GEMM_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}

_memmove = ctypes.CDLL(None).memmove
_memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def stream_names(device_type: str) -> tuple[str, ...]:
    """Names of the copies in ``stream_runs`` on a device."""
    return ("copy", "add", "memmove" if device_type == "cpu" else "mul")


def limit_name(stream: str) -> str:
    """A limit's name among the providers, which may have a provider called "copy" too."""
    return f"limit:{stream}"


def stream_runs(traffic: int, device: torch.device) -> dict[str, Run]:
    """Ways to move ``traffic`` bytes, read plus written. Which is fastest depends on size and machine: the limit is
    the best of them. memmove writes around the caches where torch's copy does not; add reads two streams."""
    n = max(traffic // 8, 1)  # float32 values read, and as many written
    third = max(traffic // 12, 1)
    source, target = torch.ones(n, device=device), torch.empty(n, device=device)
    a, b, c = (torch.ones(third, device=device) for _ in range(3))
    runs = {"copy": Run(lambda: target.copy_(source)), "add": Run(lambda: torch.add(a, b, out=c))}
    if device.type == "cpu":
        runs["memmove"] = Run(lambda: _memmove(target.data_ptr(), source.data_ptr(), 4 * n))
    else:
        runs["mul"] = Run(lambda: torch.mul(source, 2.0, out=target))
    return runs


def _medians(runs: dict[Any, Run], device: torch.device) -> dict[Any, float]:
    timer = make_timer(device)
    plans = {key: Plan(run, timer) for key, run in runs.items()}
    take_turns(list(plans.values()))
    return {key: quantile(plan.samples, 0.5) for key, plan in plans.items()}


def _empty() -> None:
    pass


def measure_limits(device: torch.device, threads: Sequence[int]) -> dict[str, Any]:
    """Stream rates at three sizes, GEMM peak per dtype (each per thread count), call floor and launch latency."""
    found: dict[str, Any] = {"stream": [], "gemm": []}
    before = torch.get_num_threads()
    for count in threads:
        torch.set_num_threads(count)
        for size in STREAM_BYTES[device.type]:
            for name, seconds in _medians(stream_runs(size, device), device).items():
                row = {"op": name, "bytes": size, "threads": count, "gb_per_s": size / seconds / 1e9}
                found["stream"].append(row)
        n = GEMM_SIZE[device.type]
        for dtype in GEMM_DTYPES[device.type]:
            a, b = (torch.ones(n, n, device=device).normal_().to(dtype) for _ in range(2))
            seconds = _medians({dtype: Run(lambda a=a, b=b: a @ b)}, device)[dtype]
            row = {"dtype": str(dtype)[6:], "threads": count, "gflop_per_s": 2 * n**3 / seconds / 1e9}
            found["gemm"].append(row)
    torch.set_num_threads(before)
    found["python_call_s"] = _medians({"call": Run(_empty)}, torch.device("cpu"))["call"]
    if device.type == "cuda":
        found["launch_s"] = _launch_seconds(device)
    return found


def gemm_rate(limits: dict[str, Any], dtype: str, threads: int) -> float:
    """FLOP/s of the measured GEMM peak, or infinity where none was measured."""
    rows = [r for r in limits["gemm"] if r["dtype"] == dtype and r["threads"] == threads]
    return rows[0]["gflop_per_s"] * 1e9 if rows else float("inf")


def _launch_seconds(device: torch.device) -> float:
    """Host and device time a kernel on one value takes, launched back to back."""
    value, launches = torch.zeros((), device=device), 1000

    def burst() -> None:
        for _ in range(launches):
            value.zero_()
        torch.cuda.synchronize()

    return _medians({"launch": Run(burst)}, torch.device("cpu"))["launch"] / launches
