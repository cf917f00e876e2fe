"""The M-step in place, against the same in torch op by op and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from probkernels.ops import em_update_
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..grids import points

# N, K, M: tables of MNIST's pixels with 16 states, weights of its tree, one long distribution
SIZES = [(784, 256, 16), (8448, 16, 1), (16, 50_000, 1)]
STEP, PSEUDOCOUNT = 0.2, 0.1


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("n", "k", "m"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """params of which some are 0, flows; both (N, K, M)."""
    shape = tuple(params[name] for name in ("n", "k", "m"))
    weights = torch.rand(shape)
    weights *= weights > 0.1
    return {
        "params": (weights / weights.sum(1, keepdim=True)).to(device, dtype),
        "flows": (10 * torch.rand(shape)).to(device, dtype),
    }


def traffic(params: Params, mode: str) -> int:
    """Parameters read and written, flows read: once, as a distribution is small."""
    return 3 * params["n"] * params["k"] * params["m"] * getattr(torch, params["dtype"]).itemsize


def _task(inputs: Inputs, update: Callable[[Tensor, Tensor], None]) -> Task:
    """The output is what one update leaves; every timed one goes on from the last."""
    params, flows = inputs["params"].clone(), inputs["flows"]

    def outputs() -> list[Tensor]:
        fresh = inputs["params"].clone()
        update(fresh, flows)
        return [fresh]

    return Task({"step": Run(lambda: update(params, flows))}, outputs)


def _by_torch(params: Tensor, flows: Tensor) -> None:
    edges = params != 0
    mass = torch.where(edges, flows + PSEUDOCOUNT / edges.sum(1, keepdim=True), 0.0)
    params.mul_(1 - STEP).add_(mass * (STEP / mass.sum(1, keepdim=True)))


def _ours(inputs: Inputs, params: Params) -> Task:
    return _task(inputs, lambda p, f: em_update_(p, f, STEP, PSEUDOCOUNT))


def _eager(inputs: Inputs, params: Params) -> Task:
    return _task(inputs, _by_torch)


@functools.cache
def compiled() -> Callable[[Tensor, Tensor], None]:
    return torch.compile(_by_torch)


def _compiled(inputs: Inputs, params: Params) -> Task:
    return _task(inputs, compiled())


CASE = Case(
    name="em_update",
    modes=("step",),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _eager, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _eager, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_eager", _eager, _eager),
        Provider("torch_compile", _compiled, _eager),
    ),
)
