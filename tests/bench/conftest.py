"""A case that takes milliseconds, and a runner with limits to match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.bench import limits, timing
from probkernels.bench.case import Case, Inputs, Params, Provider, Run, Task, Unavailable

POINT: Params = {"device": "cpu", "dtype": "float32", "threads": 1, "size": 1000}


def doubling(factor: float) -> Callable[[Inputs, Params], Task]:
    """A provider of x * 2 that may be off by a factor."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        def call() -> torch.Tensor:
            return inputs["x"] * (2 * factor)

        return Task({"fwd": Run(call), "bwd": Run(lambda y: y + y, setup=call)}, lambda: [call()])

    return prepare


def raising(error: Exception) -> Callable[[Inputs, Params], Task]:
    """A provider that cannot be prepared."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        raise error

    return prepare


def make_case(*providers: Provider, **fields: Any) -> Case:
    """The case "fake" on one point, moving 8 bytes a value."""
    return Case(
        name="fake",
        grid=lambda device: [POINT],
        make=lambda device, dtype, params: {"x": torch.randn(params["size"], dtype=dtype)},
        providers=providers,
        modes=("fwd", "bwd"),
        bytes=lambda params, mode: 8 * params["size"],
        **fields,
    )


TRUTH = doubling(1)
OURS = Provider("ours_cpu", TRUTH, TRUTH, kind="ours")
PEER = Provider("peer", TRUTH, TRUTH)
WRONG_PEER = Provider("wrong_peer", doubling(1.01), TRUTH)
WRONG_OURS = Provider("ours_wrong", doubling(1.01), TRUTH, kind="ours")
MISSING = Provider("missing", raising(ModuleNotFoundError("No module named 'fastnorm'")), TRUTH)
ABSENT = Provider("absent", raising(Unavailable("needs two GPUs")), TRUTH, kind="ours")
BROKEN = Provider("broken", raising(RuntimeError("illegal instruction")), TRUTH)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.002)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.00005)
    monkeypatch.setattr(limits, "STREAM_BYTES", {"cpu": (1 << 12, 1 << 13, 1 << 14)})
    monkeypatch.setattr(limits, "GEMM_SIZE", {"cpu": 16})
    monkeypatch.setattr(timing, "recycle_memory", lambda: None)  # it is for the whole process
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # it takes time, of ours alone
