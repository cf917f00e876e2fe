"""What one call of a registered op costs the host, beside native ops: 16 values, so that the kernels take no time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from probkernels._core import native
from probkernels._core.native import DTYPE_CODE
from probkernels.ops.power_norm import FWD, power_norm
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Unavailable, Verdict, of_op

EPS = 1e-5
BUDGET = 2.0  # our op without grad, in two-op ATen expressions


def grid(device: str) -> list[Params]:
    """CPU tensors everywhere, GPU tensors too where there is a GPU. One thread: there is nothing to share."""
    return [{"device": d, "dtype": "float32", "threads": 1} for d in dict.fromkeys(("cpu", device))]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, grad_y (1, 16); weight, bias, psi2 (16)."""
    x, grad_y = (torch.randn(1, 16).to(device, dtype) for _ in range(2))
    weight, bias, psi2 = (torch.rand(16).to(device, dtype) + 0.5 for _ in range(3))
    return {"x": x, "grad_y": grad_y, "weight": weight, "bias": bias, "psi2": psi2}


Function = Callable[[Inputs, Tensor], Tensor]  # inputs, x -> y


def _differentiable(inputs: Inputs, params: Params, *, function: Function) -> Task:
    """Calls without grad, with grad (which records a graph), and with a backward that adds to x.grad."""
    x, grad_y, leaf = inputs["x"], inputs["grad_y"], inputs["x"].clone().requires_grad_()
    modes = {
        "no grad": Run(lambda: function(inputs, x)),
        "grad": Run(lambda: function(inputs, leaf)),
        "fwd+bwd": Run(lambda: function(inputs, leaf).backward(grad_y)),
    }

    def outputs() -> list[Tensor]:
        leaf.grad = None
        y = function(inputs, leaf)
        y.backward(grad_y)
        return [function(inputs, x), y.detach(), leaf.grad]

    return Task(modes, outputs)


def _op(inputs: Inputs, x: Tensor) -> Tensor:
    return FWD.call(x, inputs["weight"], inputs["bias"], inputs["psi2"], None, None, 0, EPS, False, False)[0]


def _function(inputs: Inputs, x: Tensor) -> Tensor:
    return power_norm(x, inputs["psi2"], inputs["weight"], inputs["bias"])[0]


def _empty(inputs: Inputs, params: Params) -> Task:
    def nothing() -> None:
        pass

    return Task({"no grad": Run(nothing)}, list)


def _launcher(inputs: Inputs, params: Params) -> Task:
    """The native function alone, on outputs made once."""
    if native.module is None:
        raise Unavailable(native.problem)
    x, psi2 = inputs["x"], inputs["psi2"]
    tensors = (x, inputs["weight"], inputs["bias"], psi2, None, torch.empty_like(x), torch.empty_like(psi2))
    launch, rest = native.module.power_norm_fwd_cpu, (*x.shape, 0, EPS, 1)

    def call() -> None:
        launch(DTYPE_CODE[x.dtype], *tensors, *rest)

    def outputs() -> list[Tensor]:
        call()
        return [tensors[-2]]

    return Task({"no grad": Run(call)}, outputs)


def _launcher_truth(inputs: Inputs, params: Params) -> Task:
    return Task({}, lambda: [_op(inputs, inputs["x"])])


_aten_one = partial(_differentiable, function=lambda inputs, x: torch.addcmul(x, x, x))
_aten_two = partial(_differentiable, function=lambda inputs, x: x * 2 + 3)
_layer_norm = partial(
    _differentiable, function=lambda inputs, x: F.layer_norm(x, (16,), inputs["weight"], inputs["bias"], EPS)
)
_ours_op, _ours_function = (partial(_differentiable, function=f) for f in (_op, _function))


def judge(results: list[Result]) -> list[Verdict]:
    """The budget. Minima are compared: a call is never faster than its cost, only slower by what disturbs it."""
    fastest = {r.provider: min(r.samples_s) for r in results if r.mode == "no grad" and r.samples_s}
    if not {"ours_op", "aten_two"} <= fastest.keys():
        return []
    ratio = fastest["ours_op"] / fastest["aten_two"]
    claim = f"{results[0].params['device']}: a call of our op without grad, in two-op ATen expressions"
    return [Verdict(claim, ratio, f"<= {BUDGET}", ratio <= BUDGET)]


CASE = Case(
    name="overhead",
    modes=("no grad", "grad", "fwd+bwd"),
    grid=grid,
    make=make,
    judge=judge,
    host_cost=True,
    tests=(of_op("power_norm"),),
    providers=(
        Provider("ours_op", _ours_op, _ours_op, kind="ours"),
        Provider("ours_function", _ours_function, _ours_function, kind="ours"),
        Provider("launcher", _launcher, _launcher_truth, kind="ours", devices=("cpu",), modes=("no grad",)),
        Provider("empty_function", _empty, _empty, kind="floor", modes=("no grad",)),
        Provider("aten_one", _aten_one, _aten_one),
        Provider("aten_two", _aten_two, _aten_two),
        Provider("layer_norm", _layer_norm, _layer_norm),
    ),
)
