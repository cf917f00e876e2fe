"""Grids lie along x, where a GPU takes 2^31 - 1 blocks. Along y and z it takes 65,535 and refuses the launch beyond."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import backends

OTHER_AXES = re.compile(r"\bprogram_id\((?:axis=)?[12]\)|\b(?:blockIdx|gridDim)\.[yz]")
FOLDERS = {"csrc/cuda": "*.cu", "csrc/include/pk": "*.h", "triton_kernels": "*.py"}


def test_no_kernel_reads_another_axis() -> None:
    files = [path for folder, kind in FOLDERS.items() for path in (backends.ROOT / folder).glob(kind)]
    assert len(files) > 30
    assert [f"{path.name}: {found}" for path in files for found in OTHER_AXES.findall(path.read_text())] == []


def layer(groups: int, outs: int, ins: int, batch: int) -> tuple[Tensor, ...]:
    x, y = (torch.empty(groups, n, batch, device="meta") for n in (ins, outs))
    return x, torch.empty(groups, outs, ins, device="meta"), y


def launch_sums(kernels: Any) -> None:
    x, weights, y = layer(1, 1, 1, 32 * 65536)  # 65,536 tiles of samples
    kernels.sum_layer(x, weights, y)
    x, weights, y = layer(1, 8192, 8192, 32)  # 65,536 tiles of weights
    kernels.sum_layer_bwd(x, weights, y, y, x, weights)


def launch_softmax(kernels: Any) -> None:
    points, classes = 4, 70000
    q, half = torch.empty(points, 2, device="meta"), torch.empty(points, device="meta")
    kernels.pairwise_softmax(q, half, half, torch.empty(points, classes, device="meta"))


def launch_functions(kernels: Any) -> None:
    left = torch.empty(70000, 1, 2, device="meta")
    kernels.rbf_mean(left, left, left, left)


LAUNCHES = {"sum_layer": launch_sums, "pairwise_softmax": launch_softmax, "rbf_mean": launch_functions}


@pytest.mark.skipif(backends.INTERPRETED, reason="this process interprets Triton kernels")
@pytest.mark.parametrize("family", LAUNCHES)
def test_large_triton_launches_fit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is launched is read, not run. Each of these had more than 65,535 programs along y or z."""
    jit = pytest.importorskip("triton.runtime.jit", reason="triton is not installed")
    kernels = pytest.importorskip(f"probkernels.triton_kernels.{family}")
    grids: list[tuple[int, ...]] = []
    monkeypatch.setattr(jit.JITFunction, "run", lambda self, *args, grid, **options: grids.append(grid))
    launch: Callable[[Any], None] = LAUNCHES[family]
    launch(kernels)
    assert grids
    assert all(len(grid) == 1 for grid in grids)
    assert max(map(math.prod, grids)) > 65535
