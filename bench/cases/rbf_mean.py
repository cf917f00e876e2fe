"""Sums of RBF kernels and their gradients, against torch's distances and its products in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels._core.backend import choose
from probkernels.ops import rbf_mean
from probkernels.ops.rbf_mean import OP
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import points

JUDGED = (1024, 15_000, 24, 1)
# rows, points, features, functions: the judged size; a surrogate of few features; wide points; many functions
SIZES = [JUDGED, (128, 15_000, 8, 1), (1024, 4000, 200, 1), (256, 2000, 24, 8)]
AIMS = {"torch_cdist": 6.0, "torch_addmm_in_place": 2.0}  # times faster than these
MODE = "value+gradient"


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("rows", "points", "features", "functions"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x (M, D), points (N, D) at distances of about one lengthscale, and weights (F, N)."""
    rows, count, features, functions = (params[name] for name in ("rows", "points", "features", "functions"))
    return {
        "x": (torch.randn(rows, features) / features**0.5).to(device, dtype),
        "points": (torch.randn(count, features) / features**0.5).to(device, dtype),
        "weights": (torch.randn(functions, count) / count**0.5).to(device, dtype),
    }


def traffic(params: Params, mode: str) -> int:
    """Rows, points and weights once; values and gradients once."""
    rows, count, features, functions = (params[name] for name in ("rows", "points", "features", "functions"))
    numbers = (rows + count) * features + functions * (count + rows * (features + 1))
    return numbers * getattr(torch, params["dtype"]).itemsize


def flops(params: Params, mode: str) -> int:
    """For each pair and function one product for the distance, and one for the value and the gradient."""
    pairs = params["rows"] * params["points"] * params["functions"]
    return 2 * pairs * (2 * params["features"] + 1)


def by_distances(x: Tensor, points: Tensor, weights: Tensor) -> list[Tensor]:
    """The equation as it is usually written."""
    kernel = (torch.cdist(x, points).square() / -2).exp()
    weighted = kernel * weights[:, None]
    return [weighted.sum(-1), weighted @ points - weighted.sum(-1)[..., None] * x]


def in_place(x: Tensor, points: Tensor, weights: Tensor) -> list[Tensor]:
    """One product for all distances, everything else in place, one product for values and gradients."""
    half_x, half_points = x.square().sum(1) / 2, points.square().sum(1) / 2
    kernel = torch.addmm(-half_points.expand(len(x), -1), x, points.t()).sub_(half_x[:, None]).exp_()
    columns = torch.cat([torch.ones_like(points[:, :1]), points], 1) * weights[..., None]
    sums = kernel @ columns
    return [sums[..., 0], sums[..., 1:] - sums[..., :1] * x]


def task(function: Callable[[Tensor, Tensor, Tensor], list[Tensor]]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of x, points and weights."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        def run() -> list[Tensor]:
            return function(inputs["x"], inputs["points"], inputs["weights"])

        return Task({MODE: Run(run)}, run)

    return prepare


def judge(results: list[Result]) -> list[Verdict]:
    """The speed we hold ourselves to, on one core."""
    params = results[0].params
    size = tuple(params[name] for name in ("rows", "points", "features", "functions"))
    if (params["device"], size, params["threads"]) != ("cpu", JUDGED, 1):
        return []
    op = f"ours_{choose(OP, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    found = []
    for result in results:
        if (result.provider, result.status) != (op, "ok"):
            continue
        for peer, aim in AIMS.items():
            if (figure := result.faster_than.get(peer)) is not None:
                claim = f"{op}: times faster than {peer}, {size[:3]} threads=1"
                found.append(Verdict(claim, figure, f">= {aim:g}", figure >= aim))
    return found


ours, oracle = task(lambda x, points, weights: list(rbf_mean(x, points, weights, 1.0, 1.0))), task(by_distances)

CASE = Case(
    name="rbf_mean",
    modes=(MODE,),
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", ours, oracle, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_triton", ours, oracle, kind="ours", backend="triton", devices=("cuda",)),
        Provider("torch_addmm_in_place", task(in_place), oracle),
        Provider("torch_cdist", oracle, oracle),
    ),
)
