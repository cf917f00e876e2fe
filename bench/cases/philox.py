"""Normal and uniform numbers by counter, against torch's generators, which are sequences on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import philox_normal, philox_uniform
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

SIZES = [(16, 3 * 256 * 256), (65536, 2)]  # images, and points of a plane
NORMAL, UNIFORM = "normal", "uniform"


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": rows, "elements": elements}
        for rows, elements in SIZES
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """A tensor of the shape to draw."""
    return {"like": torch.empty(params["rows"], params["elements"], device=device, dtype=dtype)}


def _task(normal: Callable[[], Tensor], uniform: Callable[[], Tensor], outputs: Callable[[], list[Tensor]]) -> Task:
    return Task({NORMAL: Run(normal), UNIFORM: Run(uniform)}, outputs)


def _ours(inputs: Inputs, params: Params) -> Task:
    like = inputs["like"]

    def draw(function: Callable[..., Tensor]) -> Tensor:
        return function(7, like.shape, dtype=like.dtype, device=like.device)

    def outputs() -> list[Tensor]:  # the same numbers, whatever the dtype: an oracle in float64 holds them
        return [draw(philox_normal), draw(philox_uniform)]

    return _task(lambda: draw(philox_normal), lambda: draw(philox_uniform), outputs)


def _torch(inputs: Inputs, params: Params) -> Task:
    like = inputs["like"]

    def outputs() -> list[Tensor]:  # other numbers: their moments are compared
        return [torch.ones_like(like[:1, :1]).double()]

    return _task(lambda: torch.randn_like(like), lambda: torch.rand_like(like), outputs)


CASE = Case(
    name="philox",
    modes=(NORMAL, UNIFORM),
    grid=grid,
    make=make,
    bytes=lambda params, mode: params["rows"] * params["elements"] * getattr(torch, params["dtype"]).itemsize,
    providers=(
        Provider("ours_cpu", _ours, _ours, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _ours, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_randn_rand", _torch, _torch),
    ),
)
