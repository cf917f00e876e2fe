"""The CUDA emulator itself, on small kernels that are right or wrong in known ways."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import backends

pytestmark = pytest.mark.skipif(bool(reason := backends.skip_reason("cuda_emu")), reason=str(reason))
SOURCE = Path(__file__).parent / "kernels.cu"
ORDERS = ("forward", "reverse", "shuffle")
each_order = pytest.mark.parametrize("order", ORDERS)


@functools.cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(backends.build_emulator(sources=(SOURCE,))))
    loaded.run.restype = ctypes.c_char_p
    return loaded


def run(
    kernel: str, data: Tensor, grid: Sequence[int] = (1, 1, 1), block: Sequence[int] | None = None, smem: int = 0
) -> Tensor:
    """What ``kernel`` leaves in a copy of ``data``; a block has a thread for each element by default."""
    data = data.float().clone()
    block = block or (data.numel(), 1, 1)
    shape = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
    pointer = ctypes.cast(data.data_ptr(), ctypes.c_void_p)
    error = library().run(kernel.encode(), *shape, smem, pointer, data.numel())
    if error:
        raise RuntimeError(error.decode())
    return data


def line_of(kernel: str, call: str, occurrence: int = 0) -> int:
    """Where ``call`` stands inside ``kernel`` in the source."""
    lines = SOURCE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f"void {kernel}(" in line)
    return [i + 1 for i in range(start, len(lines)) if call in lines[i]][occurrence]


@each_order
@pytest.mark.parametrize("kernel", ["reverse_static", "reverse_dynamic"])
def test_barriers_and_shared_memory(kernel: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    data = torch.arange(256.0)
    assert torch.equal(run(kernel, data, smem=4 * 256), data.flip(0))


@each_order
def test_a_missing_barrier_shows(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    data = torch.arange(256.0) + 1
    wrong = (run("missing_barrier", data) != data.flip(0)).sum().item()
    assert wrong > 50


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_shared_memory_starts_as_poison(kind: str) -> None:
    assert run(f"{kind}_starts_as_nan", torch.zeros(64), smem=4 * 64).isnan().all()
    assert (run("flag_starts_as_poison", torch.zeros(64)).abs() > 1e5).all()  # neither 0 nor a mark such as -1


@each_order
def test_shuffles_and_ballot(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    data = torch.zeros(6, 32)
    data[0] = lane = torch.arange(32.0)
    got = run("shuffles", data, block=(32, 1, 1))
    up = torch.where(lane < 2, lane, lane - 2)
    down = torch.where(lane > 29, lane, lane + 2)
    xor = torch.tensor([float(i ^ 3) for i in range(32)])
    assert torch.equal(got[1:], torch.stack([torch.full((32,), 5.0), xor, up, down, torch.ones(32)]))


@each_order
def test_disjoint_masks_run_apart(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    low, high = float(sum(range(16))), float(sum(range(16, 32)))  # the high half multiplies its sum by 16 twice
    expected = 16 * low + 16 * high * 256
    assert torch.equal(run("half_warps", torch.arange(32.0)), torch.full((32,), expected))


@each_order
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_block_sum(threads: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    expected = float(sum(range(threads)) + threads * threads)
    assert torch.equal(run("block_sums", torch.arange(float(threads))), torch.full((threads,), expected))


def test_returned_threads_are_not_waited_for() -> None:
    assert torch.equal(run("vote_after_return", torch.zeros(32))[:5], torch.full((5,), float(0b11101)))
    assert torch.equal(run("early_return", torch.zeros(64))[::2], torch.full((32,), 64.0))


def test_atomics_and_three_dimensions() -> None:
    assert run("count", torch.zeros(1), grid=(3, 5, 7), block=(4, 2, 3)).item() == 3 * 5 * 7 * 4 * 2 * 3
    n = 2 * 3 * 2 * 4 * 2 * 3
    assert torch.equal(run("indices", torch.zeros(n), grid=(2, 3, 2), block=(4, 2, 3)), torch.arange(float(n)))


CAUSES = {
    "divergent_barrier": r"divergent barrier: threads wait at __syncthreads \(kernels.cu:\d+\) and __syncthreads",
    "mixed_intrinsics": r"lanes of one warp wait for each other at __(shfl_xor|ballot)_sync .* and __",
    "different_masks": "with different masks",
    "outside_mask": r"a thread is not in the mask that it gives to __shfl_sync \(kernels.cu:",
    "deadlock": r"deadlock: the threads wait at __(syncthreads|shfl_sync) .*, __.*; 32 of 64 have returned",
    "stack_overflow": "overflowed its 64 KiB stack",
}


@each_order
@pytest.mark.parametrize("kernel", CAUSES)
def test_misuse_is_reported_with_its_cause(kernel: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEMU_ORDER", order)
    with pytest.raises(RuntimeError, match=r"^cuemu: block \(0, 0, 0\): " + ".*" + CAUSES[kernel]) as caught:
        run(kernel, torch.zeros(64))
    if kernel == "divergent_barrier":
        named = set(map(int, re.findall(r"kernels.cu:(\d+)", str(caught.value))))
        assert named == {line_of(kernel, "__syncthreads", k) for k in (0, 1)}
    assert torch.equal(run("reverse_static", torch.arange(64.0)), torch.arange(64.0).flip(0))  # it goes on working


def test_bad_launches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="more than 1024 threads"):
        run("count", torch.zeros(1), block=(1025, 1, 1))
    with pytest.raises(RuntimeError, match="empty grid"):
        run("count", torch.zeros(1), grid=(0, 1, 1))
    for grid in ((2**31, 1, 1), (1, 65536, 1), (1, 1, 65536)):  # a GPU has no more
        with pytest.raises(RuntimeError, match="65535 along y or z"):
            run("count", torch.zeros(1), grid=grid)
    monkeypatch.setenv("CUEMU_ORDER", "sideways")
    with pytest.raises(RuntimeError, match="use forward, reverse or shuffle"):
        run("count", torch.zeros(1))


def sanitizer(name: str) -> str:
    """The path of a sanitizer's runtime library; skips where the compiler has none."""
    command = [backends.compiler(), f"-print-file-name=lib{name}.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"the C++ compiler has no lib{name}.so")
    return path


def sanitized(file: str, passed: int) -> None:
    """Runs a file's tests once more, compiled with AddressSanitizer and UndefinedBehaviorSanitizer: all must pass."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitizer("asan"),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PK_EMULATOR": str(backends.build_emulator(flags)),
    }
    command = [sys.executable, "-m", "pytest", file, "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=backends.ROOT, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{passed} passed" in done.stdout


def test_address_sanitizer_finds_an_out_of_bounds_read() -> None:
    preload = sanitizer("asan")
    built = backends.build_emulator(("-fsanitize=address", "-g"), (SOURCE,))
    program = (
        "import ctypes, sys; e = ctypes.CDLL(sys.argv[1]); one = (ctypes.c_uint * 3)(1, 1, 1);"
        "e.run(sys.argv[2].encode(), one, (ctypes.c_uint * 3)(int(sys.argv[3]), 1, 1), 0, (ctypes.c_float * 64)(), 64)"
    )

    def start(kernel: str, threads: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-c", program, str(built), kernel, str(threads)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    assert start("reverse_static", 64).returncode == 0
    found = start("out_of_bounds", 32)
    assert found.returncode != 0
    assert "heap-buffer-overflow" in found.stderr
    assert f"kernels.cu:{line_of('out_of_bounds', 'data[threadIdx.x + n')}" in found.stderr
