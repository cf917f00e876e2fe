"""NNGP and NTK of a fully connected network, against the recursion written in torch, eager and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from probkernels._core.backend import choose
from probkernels.ops import arc_cosine
from probkernels.ops.arc_cosine import FWD
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import points

JUDGED = (2048, 4)
SIZES = [JUDGED, (512, 4), (2048, 1)]  # points, layers
GOALS = {"torch_eager": 12.0, "torch_compiled": 5.0}  # times faster, forward and backward on one core


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("points", "layers"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Inner products of 16 features, their diagonals, variances of all layers, and the gradient of both kernels."""
    count, layers = params["points"], params["layers"]
    x, z = torch.randn(2, count, 16, dtype=torch.float64) / 4
    weights, biases = torch.full((layers + 1,), 1.96), torch.full((layers + 1,), 0.09)
    tensors = {"k": x @ z.t(), "x": x.square().sum(1), "z": z.square().sum(1), "weights": weights, "biases": biases}
    inputs = {name: t.to(device, dtype).requires_grad_() for name, t in tensors.items()}
    return {**inputs, "grad_y": torch.randn(2, count, count).to(device, dtype)}


def traffic(params: Params, mode: str) -> int:
    """Forward: one matrix in, two out. Backward: three in, one out."""
    size = getattr(torch, params["dtype"]).itemsize * params["points"] ** 2
    return size * {"fwd": 3, "bwd": 4, "fwd+bwd": 7}[mode]


def recursion(k: Tensor, x: Tensor, z: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
    """As the equations are written, with the clamp that keeps gradients finite."""
    k, x, z = (weights[0] * t + biases[0] for t in (k, x, z))
    ntk, limit = k, 1 - torch.finfo(k.dtype).eps
    for layer in range(1, len(weights)):
        w, b = weights[layer], biases[layer]
        scale = (x[:, None] * z).sqrt()
        cosine = (k / scale).clamp(-limit, limit)
        angle = torch.acos(cosine)
        k = w * scale * (torch.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi) + b
        ntk = k + w * (math.pi - angle) / (2 * math.pi) * ntk
        x, z = w * x / 2 + b, w * z / 2 + b
    return k, ntk


def ours(k: Tensor, x: Tensor, z: Tensor, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor | None]:
    """The op."""
    return arc_cosine(k, x, z, weights=weights, biases=biases)


def task(function: Callable[..., tuple[Tensor, Tensor | None]]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of the inputs: both kernels, and gradients to all inputs."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        leaves = [inputs[name] for name in ("k", "x", "z", "weights", "biases")]

        def fresh() -> tuple[Tensor, Tensor | None]:
            for leaf in leaves:
                leaf.grad = None
            return function(*leaves)

        def backward(kernels: tuple[Tensor, Tensor | None]) -> None:
            torch.autograd.backward(kernels, list(inputs["grad_y"]))

        def outputs() -> list[Tensor]:
            kernels = fresh()
            backward(kernels)
            return [*(t.detach() for t in kernels if t is not None), *(leaf.grad for leaf in leaves)]

        runs = (Run(fresh), Run(backward, setup=fresh), Run(lambda: backward(fresh())))
        return Task(dict(zip(TRAINED, runs, strict=True)), outputs)

    return prepare


def compiled(inputs: Inputs, params: Params) -> Task:
    """The recursion under torch.compile."""
    return task(torch.compile(recursion, dynamic=False))(inputs, params)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, on one core."""
    params = results[0].params
    if (params["device"], params["points"], params["layers"], params["threads"]) != ("cpu", *JUDGED, 1):
        return []
    op = f"ours_{choose(FWD, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    verdicts = []
    for result in results:
        if (result.provider, result.mode, result.status) != (op, "fwd+bwd", "ok"):
            continue
        for peer, goal in GOALS.items():
            figure = result.faster_than.get(peer)
            if figure is not None:
                claim = f"{op}: times faster than {peer}, {JUDGED} threads=1"
                verdicts.append(Verdict(claim, figure, f">= {goal}", figure >= goal))
    return verdicts


written = task(recursion)

CASE = Case(
    name="arc_cosine",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    judge=judge,
    providers=(
        Provider("ours_cpu", task(ours), written, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", task(ours), written, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_eager", written, written),
        Provider("torch_compiled", compiled, written),
    ),
)
