"""The leave-one-out softmax over all pairs of points, against torch's products and distances of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from probkernels._core.backend import choose
from probkernels.ops import pairwise_softmax
from probkernels.ops.pairwise_softmax import FWD
from torch import Tensor
from torch.nn.functional import one_hot

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Task, Verdict, differentiable
from ..grids import points
from ..memory import peak_bytes

JUDGED = (8000, 128, 10)
MANY = 20_000  # points of the size at which memory is judged
MOST_MEMORY = 6.0  # in tensors of the points' size: inputs of the kernel, their gradients, a tile
# points, features, classes: of a bottleneck and of a wide layer; many classes
SIZES = [JUDGED, (4000, 512, 10), (4000, 64, 1000)]


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("points", "features", "classes"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x (N, D) at distances of a few widths, labels (N), and the gradient of the shares (N, K)."""
    count, features, classes = (params[name] for name in ("points", "features", "classes"))
    return {
        "x": (2 * torch.randn(count, features) / features**0.5).to(device, dtype).requires_grad_(),
        "labels": torch.randint(classes, (count,)).to(device),
        "grad_shares": torch.rand(count, classes).to(device, dtype),
    }


def traffic(params: Params, mode: str) -> int:
    """Forward: points and shares once. Backward: those and the gradients of both once."""
    numbers = params["points"] * (params["features"] + params["classes"])
    return getattr(torch, params["dtype"]).itemsize * numbers * {"fwd": 1, "bwd": 2, "fwd+bwd": 3}[mode]


def flops(params: Params, mode: str) -> int:
    """One product forward, two backward."""
    return 2 * params["points"] ** 2 * params["features"] * {"fwd": 1, "bwd": 2, "fwd+bwd": 3}[mode]


def by_products(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Attention as written in torch: scores of all pairs, which are stored, their softmax, one-hot labels."""
    scores = x @ x.t() - x.square().sum(1) / 2
    diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return scores.masked_fill(diagonal, -math.inf).softmax(1) @ one_hot(labels, classes).to(x.dtype)


def by_distances(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The estimate as it is published: exponentials of squared distances, zeros for a point itself."""
    kernel = (torch.cdist(x, x).square() / -2).exp() * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return kernel @ one_hot(labels, classes).to(x.dtype) / (kernel.sum(1, keepdim=True) + 1e-8)


def task(function: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of points, labels and classes."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        x, labels = inputs["x"], inputs["labels"]
        return differentiable(lambda: function(x, labels, params["classes"]), [x], inputs["grad_shares"])

    return prepare


def memory(points: int) -> int:
    """Peak bytes of forward and backward, with the features and classes of the judged size."""
    inputs = make(torch.device("cpu"), torch.float32, {"points": points, "features": JUDGED[1], "classes": JUDGED[2]})
    task = ours(inputs, {"classes": JUDGED[2]})
    return peak_bytes(task.modes["fwd+bwd"].run)


def _memory_verdict() -> Verdict:
    """Memory of many points, in tensors of their size: it stays the same number only if memory is linear."""
    share = memory(MANY) / (MANY * JUDGED[1] * torch.float32.itemsize)
    claim = f"peak memory of forward and backward, {(MANY, *JUDGED[1:])}, in sizes of x"
    return Verdict(claim, share, f"<= {MOST_MEMORY:g}", share <= MOST_MEMORY)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, on one core: the forward's time, and memory."""
    params = results[0].params
    size = tuple(params[name] for name in ("points", "features", "classes"))
    if (params["device"], size, params["threads"]) != ("cpu", JUDGED, 1):
        return []
    op = f"ours_{choose(FWD, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    figures = [
        r.faster_than.get("torch_products") for r in results if (r.provider, r.mode, r.status) == (op, "fwd", "ok")
    ]
    claim = f"{op}: times faster than torch_products, {size} threads=1"
    return [
        *(Verdict(claim, figure, ">= 1.25", figure >= 1.25) for figure in figures if figure is not None),
        _memory_verdict(),
    ]


ours, products = task(lambda x, labels, classes: pairwise_softmax(x, labels, classes)[0]), task(by_products)

CASE = Case(
    name="pairwise_softmax",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", ours, products, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_triton", ours, products, kind="ours", backend="triton", devices=("cuda",)),
        Provider("torch_products", products, products),
        Provider("torch_distances", task(by_distances), products),
    ),
)
