"""KL divergences between rows of logits, the map of KL tracing, against torch's log-softmaxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import kl_rows
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Task, differentiable
from ..grids import points

SIZES = [(4096, 1000), (64, 65_536)]  # rows, values: a small vocabulary, and that of the published tokens


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("rows", "values"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Both logits (N, V), and the gradient of the result."""
    shape = (params["rows"], params["values"])
    p, q = (torch.randn(shape).to(device, dtype).requires_grad_() for _ in range(2))
    return {"p": p, "q": q, "grad": torch.randn(shape[0]).to(device, torch.promote_types(dtype, torch.float32))}


def traffic(params: Params, mode: str) -> int:
    """Forward: both tensors once. Backward: both and their gradients once."""
    numbers = params["rows"] * params["values"]
    return getattr(torch, params["dtype"]).itemsize * numbers * {"fwd": 2, "bwd": 4, "fwd+bwd": 6}[mode]


def flops(params: Params, mode: str) -> int:
    """Two exponentials and three sums forward, two exponentials and two products backward."""
    return params["rows"] * params["values"] * {"fwd": 6, "bwd": 8, "fwd+bwd": 14}[mode]


def by_log_softmax(p: Tensor, q: Tensor) -> Tensor:
    """Two log-softmaxes and a sum, at least in float32."""
    wide = torch.promote_types(p.dtype, torch.float32)
    log_p, log_q = p.log_softmax(1, wide), q.log_softmax(1, wide)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def task(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of both logits."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        logits = [inputs["p"], inputs["q"]]
        return differentiable(lambda: function(*logits), logits, inputs["grad"])

    return prepare


def compiled(inputs: Inputs, params: Params) -> Task:
    """The plain form under torch.compile."""
    return task(torch.compile(by_log_softmax, dynamic=False))(inputs, params)


ours, oracle = task(kl_rows), task(by_log_softmax)

CASE = Case(
    name="kl_rows",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    providers=(
        Provider("ours_cpu", ours, oracle, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_triton", ours, oracle, kind="ours", backend="triton", devices=("cuda",)),
        Provider("torch_log_softmax", oracle, oracle),
        Provider("torch_compile", compiled, oracle),
    ),
)
