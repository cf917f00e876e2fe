"""A layer of sums over log values, against logsumexp of all edges and a product shifted by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from probkernels.ops import sum_layer
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Task, differentiable
from ..grids import points

# groups, outs, ins, batch: the layers of a latent tree over MNIST with 16 and 64 states, one made by hand, one wide one
SIZES = [(64, 16, 16, 512), (64, 64, 64, 512), (2000, 1, 2, 256), (1, 256, 256, 512)]


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("groups", "outs", "ins", "batch"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x (G, I, B) log values, weights (G, O, I) that add up to 1, grad_y (G, O, B)."""
    groups, outs, ins, batch = (params[name] for name in ("groups", "outs", "ins", "batch"))
    weights = torch.rand(groups, outs, ins)
    return {
        "x": (4 * torch.randn(groups, ins, batch)).to(device, dtype).requires_grad_(),
        "weights": (weights / weights.sum(2, keepdim=True)).to(device, dtype).requires_grad_(),
        "grad_y": torch.rand(groups, outs, batch).to(device, dtype),
    }


def traffic(params: Params, mode: str) -> int:
    """Forward: x, weights and y once. Backward: those and grad_y once, and both gradients."""
    groups, outs, ins, batch = (params[name] for name in ("groups", "outs", "ins", "batch"))
    x, y, w = groups * ins * batch, groups * outs * batch, groups * outs * ins
    passes = {"fwd": x + w + y, "bwd": 2 * (x + w + y), "fwd+bwd": 3 * (x + w + y)}
    return getattr(torch, params["dtype"]).itemsize * passes[mode]


def flops(params: Params, mode: str) -> int:
    """One product forward, two backward."""
    edges = params["groups"] * params["outs"] * params["ins"] * params["batch"]
    return 2 * edges * {"fwd": 1, "bwd": 2, "fwd+bwd": 3}[mode]


def shifted(x: Tensor, weights: Tensor) -> Tensor:
    """The usual torch code: exponentials below the largest input, one batched product, a logarithm."""
    top = x.detach().amax(1, keepdim=True)
    return top + torch.bmm(weights, (x - top).exp()).log()


def edges(x: Tensor, weights: Tensor) -> Tensor:
    """torch's logsumexp over all edges of all samples, which are stored."""
    return torch.logsumexp(weights.log()[..., None] + x[:, None], 2)


@functools.cache
def compiled() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(edges)


def task(function: Callable[[], Callable[..., Tensor]]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of x and weights, which is made when it is needed."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        run: Callable[..., Any] = function()
        leaves = [inputs["x"], inputs["weights"]]
        return differentiable(lambda: run(*leaves), leaves, inputs["grad_y"])

    return prepare


ours, by_product, by_edges = task(lambda: sum_layer), task(lambda: shifted), task(lambda: edges)

CASE = Case(
    name="sum_layer",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    providers=(
        Provider("ours_cpu", ours, by_edges, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_triton", ours, by_edges, kind="ours", backend="triton", devices=("cuda",)),
        Provider("torch_product", by_product, by_edges),
        Provider("torch_logsumexp", by_edges, by_edges),
        Provider("torch_compile", task(compiled), by_edges),
    ),
)
