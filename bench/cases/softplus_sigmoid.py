"""Softplus with its derivative against torch's softplus and sigmoid: forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import softplus_sigmoid
from torch import Tensor

from ..case import Case, Inputs, Params, Run, Task, ours_and_torch
from ..machine import cores

BETA = 10.0
FORWARD, TRAINED = "fwd", "fwd+bwd"


def grid(device: str) -> list[Params]:
    """Pre-activations of a small and of a large layer on one core, and of the large one on all."""
    sizes = [(1000, 50), (64, 64 * 28 * 28)]
    points = [(cores(), *sizes[1])] if device == "cuda" else [(1, *sizes[0]), (1, *sizes[1]), (cores(), *sizes[1])]
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": rows, "elements": n}
        for threads, rows, n in dict.fromkeys(points)
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Pre-activations and both cotangents."""
    shape = params["rows"], params["elements"]
    made = {name: torch.randn(shape).to(device, dtype) for name in ("x", "of_value", "of_slope")}
    made["x"].requires_grad_()
    return made


def traffic(params: Params, mode: str) -> int:
    """Each input and output once."""
    tensors = 3 if mode == FORWARD else 3 + 4
    return tensors * params["rows"] * params["elements"] * getattr(torch, params["dtype"]).itemsize


def _task(function: Callable[[Tensor], tuple[Tensor, Tensor]], inputs: Inputs) -> Task:
    x, grads = inputs["x"], [inputs["of_value"], inputs["of_slope"]]

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return function(x)

    def trained() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(x), x, grads)

    return Task({FORWARD: Run(forward), TRAINED: Run(trained)}, lambda: [*forward(), *trained()])


def _ours(inputs: Inputs, params: Params) -> Task:
    return _task(lambda x: softplus_sigmoid(x, BETA), inputs)


def _torch(inputs: Inputs, params: Params) -> Task:
    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.softplus(x, BETA, threshold=40), torch.sigmoid(BETA * x)

    return _task(plain, inputs)


CASE = Case(
    name="softplus_sigmoid",
    modes=(FORWARD, TRAINED),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=ours_and_torch(_ours, _torch),
)
