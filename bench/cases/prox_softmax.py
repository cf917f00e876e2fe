"""The proximal softmax against nested Newton and Halley iterations written in torch, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels._core.backend import choose
from probkernels.ops import prox_softmax
from probkernels.ops.prox_softmax import FWD
from probkernels.reference import prox_softmax as reference
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..grids import points

ALPHA = 0.125
JUDGED = (128, 128, 4)
SIZES = [JUDGED, (128, 784, 20)]  # batch, groups, states
GOAL = 5.0  # times faster than eager torch, forward and backward on one core


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("batch", "groups", "states"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """y, and the gradient of the probabilities."""
    shape = params["batch"], params["groups"], params["states"]
    y, grad = torch.randn(2, *shape).to(device, dtype)
    return {"y": y.requires_grad_(), "grad_y": grad}


def traffic(params: Params, mode: str) -> int:
    """Forward: one tensor in, one out. Backward: two in, one out."""
    size = getattr(torch, params["dtype"]).itemsize * params["batch"] * params["groups"] * params["states"]
    return size * {"fwd": 2, "bwd": 3, "fwd+bwd": 5}[mode]


class Nested(torch.autograd.Function):
    """As the authors' program: four steps of Newton's method, with three of Halley's method in each."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """The probabilities."""
        multiplier = 1 - y.amax(-1, keepdim=True)
        for _ in range(4):
            u = y + multiplier
            g = torch.minimum(u / ALPHA - 1, u - 1)
            for _ in range(3):
                e = (1 - ALPHA) * g.exp()
                f, slope = u - ALPHA - ALPHA * g - e, -ALPHA - e
                g = g - 2 * f * slope / (2 * slope * slope + f * e)
            p = g.exp()
            slopes = (p / (ALPHA + (1 - ALPHA) * p)).sum(-1, keepdim=True)
            multiplier = multiplier - (p.sum(-1, keepdim=True) - 1) / slopes
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """The gradient from the probabilities."""
        (p,) = ctx.saved_tensors
        rate = p / (ALPHA + (1 - ALPHA) * p)
        return rate * grad - rate * (rate * grad).sum(-1, keepdim=True) / rate.sum(-1, keepdim=True)


def task(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs, Params], Task]:
    """The Task of a function of y: probabilities, and the gradient."""

    def prepare(inputs: Inputs, params: Params) -> Task:
        y, grad = inputs["y"], inputs["grad_y"]

        def fresh() -> Tensor:
            y.grad = None
            return function(y)

        def backward(p: Tensor) -> None:
            p.backward(grad)

        def outputs() -> list[Tensor]:
            p = fresh()
            backward(p)
            return [p.detach(), y.grad]

        runs = (Run(fresh), Run(backward, setup=fresh), Run(lambda: backward(fresh())))
        return Task(dict(zip(TRAINED, runs, strict=True)), outputs)

    return prepare


def compiled(inputs: Inputs, params: Params) -> Task:
    """The nested iterations under torch.compile."""
    return task(torch.compile(Nested.apply, dynamic=False))(inputs, params)


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to, on one core."""
    params = results[0].params
    if (params["device"], params["batch"], params["groups"], params["states"]) != ("cpu", *JUDGED):
        return []
    op = f"ours_{choose(FWD, 'cpu', getattr(torch, params['dtype'])).name}"  # what a user gets
    verdicts = []
    for result in results:
        figure = result.faster_than.get("torch_eager")
        if (result.provider, result.mode, params["threads"], result.status) == (op, "fwd+bwd", 1, "ok") and figure:
            claim = f"{op}: times faster than torch_eager, {JUDGED} threads=1"
            verdicts.append(Verdict(claim, figure, f">= {GOAL}", figure >= GOAL))
    return verdicts


written = task(Nested.apply)
ours = task(lambda y: prox_softmax(y, ALPHA))
exact = task(lambda y: reference.prox_softmax(y, ALPHA))

CASE = Case(
    name="prox_softmax",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    judge=judge,
    providers=(
        Provider("ours_cpu", ours, exact, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", ours, exact, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch_eager", written, exact),
        Provider("torch_compiled", compiled, exact),
    ),
)
