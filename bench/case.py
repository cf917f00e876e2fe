"""The parts of a benchmark: a ``Case`` has points to measure, inputs, costs, and the providers to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Any]  # one point of a grid: JSON values, with "device", "dtype" and "threads" among them
Inputs = dict[str, Any]  # tensors by name, or None

TRAINED = ("fwd", "bwd", "fwd+bwd")  # the modes of a function trained through autograd
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.int32: 0.0}


class Unavailable(Exception):
    """Raised by a provider that cannot run here. The message says why."""


@dataclass(frozen=True)
class Run:
    """One mode of one provider. A call is ``run(setup())``; only ``run`` is timed."""

    run: Callable[..., Any]
    setup: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Task:
    """A provider with one set of inputs: its modes, and the outputs that are compared with its oracle's."""

    modes: dict[str, Run]
    outputs: Callable[[], Sequence[Tensor]]


Prepare = Callable[[Inputs, Params], Task]


@dataclass(frozen=True)
class Provider:
    """One implementation to time: a backend of ours, or a peer.

    Args:
        name: name of its row in the tables.
        prepare: ``prepare(inputs, params)`` returns its Task. A peer's ImportError is reported as "not installed".
        oracle: like ``prepare``, for float64 inputs; its outputs are the reference for this provider.
        kind: "ours" (a wrong result or an exception fails the whole run), "peer", or "floor" (a lower bound, not a
            competitor).
        backend: the backend that is forced while it runs; for "ours" only.
        devices: device types on which it can run.
        modes: its modes; None for all modes of its case.
    """

    name: str
    prepare: Prepare
    oracle: Prepare
    kind: str = "peer"
    backend: str | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    modes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim about speed, the measured figure, and whether the claim holds."""

    claim: str
    measured: float
    expected: str
    holds: bool


@dataclass
class Result:
    """What the runner found for one provider in one mode at one point; ``status`` is ok, wrong, not installed,
    unavailable or failed."""

    case: str
    params: Params
    provider: str
    mode: str
    kind: str  # ours, peer, floor, or limit: the machine itself
    status: str
    reason: str = ""
    error: float | None = None  # largest error of an output, relative to that output's largest value
    bytes: int = 0
    flops: int = 0
    samples_s: list[float] = field(default_factory=list)
    calls_per_sample: int = 0
    median_s: float | None = None
    q10_s: float | None = None
    q90_s: float | None = None
    of_limit: float | None = None  # the least time this machine's measured limits allow, over the median
    faster_than: dict[str, float] = field(default_factory=dict)  # ours only: peer -> peer's median over this median
    peak_bytes: int | None = None  # GPU memory of one call, beyond what it was given


def of_op(op: str) -> str:
    """The test file of an op, below tests/."""
    return f"ops/test_{op}.py"


@dataclass(frozen=True)
class Case:
    """A benchmark of one op, or of a function that is no op.

    Args:
        name: the op's or the function's basename.
        grid: maps a device type to the points to measure.
        make: ``make(device, dtype, params)`` returns the inputs.
        providers: the implementations to compare.
        modes: modes of every provider that does not name its own.
        bytes, flops: the least memory traffic and arithmetic of a mode at a point; 0 if no limit applies.
        judge: maps the results of a point to verdicts, for cases with a claim about speed.
        host_cost: whether to time the host's side of a call, on every device.
        tests: test files, below tests/, that must pass before a speed is reported; those of the op called ``name``
            if None.
    """

    name: str
    grid: Callable[[str], list[Params]]
    make: Callable[[torch.device, torch.dtype, Params], Inputs]
    providers: tuple[Provider, ...]
    modes: tuple[str, ...]
    bytes: Callable[[Params, str], int] = lambda params, mode: 0
    flops: Callable[[Params, str], int] = lambda params, mode: 0
    judge: Callable[[list[Result]], list[Verdict]] = lambda results: []
    host_cost: bool = False
    tests: tuple[str, ...] | None = None

    def modes_of(self, provider: Provider) -> tuple[str, ...]:
        """The modes in which a provider competes."""
        return self.modes if provider.modes is None else provider.modes

    def test_files(self) -> tuple[str, ...]:
        """The test files, below tests/, that must pass before a speed is reported."""
        return (of_op(self.name),) if self.tests is None else self.tests


def differentiable(forward: Callable[[], Tensor], leaves: Sequence[Tensor], grad_y: Tensor) -> Task:
    """The Task of a differentiable function: the modes TRAINED, with outputs y and the leaves' gradients."""

    def fresh() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        return forward()

    def backward(y: Tensor) -> None:
        y.backward(grad_y)

    def outputs() -> list[Tensor]:
        y = fresh()
        backward(y)
        return [y.detach(), *(leaf.grad for leaf in leaves)]

    runs = (Run(fresh), Run(backward, setup=fresh), Run(lambda: backward(fresh())))
    return Task(dict(zip(TRAINED, runs, strict=True)), outputs)


def to_double(inputs: Inputs) -> Inputs:
    """The inputs of an oracle: copies with floating-point tensors in float64, as new leaves."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.detach().double().requires_grad_(value.requires_grad)

    return {name: convert(value) for name, value in inputs.items()}


def relative_error(outputs: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Largest error over all outputs, each relative to the largest value of its truth; inf for NaN or wrong shapes."""
    if len(outputs) != len(truth):
        return float("inf")
    worst = 0.0
    for got, expected in zip(outputs, truth, strict=True):
        if got is None or got.shape != expected.shape:
            return float("inf")
        scale = expected.abs().max().item() or 1.0
        error = (got.double() - expected).abs().max().item() / scale
        worst = max(worst, error if error == error else float("inf"))
    return worst


def ours_and_torch(ours: Prepare, plain: Prepare) -> tuple[Provider, ...]:
    """The providers of an op with a C++ and a CUDA kernel, and plain torch: ours on both, and the peer."""
    return (
        Provider("ours_cpu", ours, plain, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", ours, plain, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch", plain, plain),
    )
