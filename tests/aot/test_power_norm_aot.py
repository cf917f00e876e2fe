"""The Triton kernels of PowerNorm compiled for real GPUs, without one: what a launch function would have launched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import backends

triton = pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")
Kernels = list[Any]


class Target:
    """Stands in for Triton's driver: a device of architecture ``arch`` on which nothing can be launched."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # so that each architecture has its own cache of kernels

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kernels]]:
    """compiled(arch, launch, *args) calls a launch function and gives the kernels that it would have run."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    kernels: Kernels = []
    run = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))

    def call(arch: int, launch: Callable[..., None], *args: Any) -> Kernels:
        kernels.clear()
        monkeypatch.setattr(driver, "_active", Target(arch))
        launch(*args)
        return list(kernels)

    monkeypatch.setattr(JITFunction, "run", only_compile)
    yield call


def stack_bytes(kernel: Any, folder: Path) -> int:
    """Bytes of memory that hold a thread's spilled registers, read from the machine code."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    text = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    (usage,) = [line for line in text.splitlines() if "STACK:" in line]
    fields = dict(field.split(":") for field in usage.split() if field.count(":") == 1)
    return int(fields["STACK"]) + int(fields["LOCAL"])


def launches(dtype: torch.dtype, c: int, groups: int) -> list[tuple[str, tuple[Any, ...]]]:
    """Every launch function with arguments: contents do not matter, only types and sizes."""
    x, acc = torch.empty(8192, c, dtype=dtype), torch.float64 if dtype is torch.float64 else torch.float32
    v, mask, tail = torch.empty(c, dtype=acc), torch.zeros(8192, dtype=torch.bool), (groups, 1e-5)
    return [
        ("stats", (x, None, v, *tail)),
        ("fwd", (x, v, v, v, mask, x, v, *tail)),
        ("bwd", (x, x, v, v, v, v, mask, x, v, v, v, *tail)),
        ("v_bwd", (x, x, None, v, None, x, v, v, *tail)),
    ]


ONE_PASS = {
    "stats": ["_fwd", "_finish_fwd"],
    "fwd": ["_fwd", "_finish_fwd"],
    "bwd": ["_bwd", "_finish_bwd"],
    "v_bwd": ["_bwd", "_finish_bwd", "_bwd"],
}
TWO_PASSES = {  # a group wider than a tile
    "stats": ["_scales", "_fwd", "_finish_fwd"],
    "fwd": ["_scales", "_fwd", "_finish_fwd"],
    "bwd": ["_scales", "_bwd", "_finish_bwd"],
    "v_bwd": ["_scales", "_bwd", "_finish_bwd", "_scales", "_bwd"],
}


@pytest.mark.parametrize(
    ("arch", "dtype", "c", "groups"),
    [
        (80, torch.float32, 300, 3),
        (90, torch.bfloat16, 4096, 64),
        (100, torch.float64, 512, 1),
        pytest.param(90, torch.float32, 4096, 1, marks=pytest.mark.slow),
        pytest.param(90, torch.float16, 16384, 1, marks=pytest.mark.slow),
        pytest.param(80, torch.bfloat16, 1000, 0, marks=pytest.mark.slow),
        pytest.param(100, torch.float16, 768, 12, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kernels_compile_without_spilling(
    compiled: Callable[..., Kernels], tmp_path: Path, arch: int, dtype: torch.dtype, c: int, groups: int
) -> None:
    from probkernels.triton_kernels import power_norm

    names = TWO_PASSES if c // max(groups, 1) > 8192 else ONE_PASS
    for launch, args in launches(dtype, c, groups):
        kernels = compiled(arch, getattr(power_norm, launch), *args)
        assert [kernel.metadata.name for kernel in kernels] == names[launch]
        for kernel in kernels:
            assert kernel.metadata.shared <= 48 << 10
            assert stack_bytes(kernel, tmp_path) == 0, f"{launch}: {kernel.metadata.name} spills registers"
        main = next(kernel for kernel in kernels if kernel.metadata.name in ("_fwd", "_bwd"))
        if c % 128 == 0 and dtype is not torch.float64:
            assert "ld.global.v4.b32" in main.asm["ptx"], "rows are not read 16 bytes at a time"
        if dtype is torch.float64:
            assert "9.9999997" not in main.asm["ttir"], "eps was rounded to float32"
