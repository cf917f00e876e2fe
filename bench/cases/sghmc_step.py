"""A step of SGHMC against the same equations by torch's multi-tensor ops, and tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from probkernels.ops import sghmc_step_
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import points

RULE = {"lr": 1e-2, "mdecay": 5e-2, "scale_grad": 10.0, "eps": 1e-10}
STATE = ("weights", "momentum", "tau", "g", "v")
SIZES = [(6, 2_000), (6, 10_000), (6, 1_000_000)]  # tensors, parameters in all: three layers; two small nets, one large
LEAST = {2_000: 6.0, 10_000: 6.0, 1_000_000: 3.0}  # times faster than the foreach form


def grid(device: str) -> list[Params]:
    """Three layers of weights and biases, of small networks and of a large one."""
    return points(device, ("tensors", "size"), SIZES)


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Lists of flat tensors: weights, momentum, tau, g, v, grads; a bias is a fiftieth of its weight."""
    layer = 2 * params["size"] // params["tensors"]
    sizes = [n for _ in range(params["tensors"] // 2) for n in (layer - layer // 50, layer // 50)]

    def normal() -> list[Tensor]:
        return [torch.randn(n).to(device, dtype) for n in sizes]

    weights, momentum, g, grads = (normal() for _ in range(4))
    tau = [1 + t.abs() for t in normal()]
    v = [t.square() + 1 for t in g]
    lists = {"weights": weights, "momentum": momentum, "tau": tau, "g": g, "v": v, "grads": grads}
    return {f"{name}{k}": t for name, tensors in lists.items() for k, t in enumerate(tensors)}


def _lists(inputs: Inputs, params: Params) -> dict[str, list[Tensor]]:
    return {name: [inputs[f"{name}{k}"].clone() for k in range(params["tensors"])] for name in (*STATE, "grads")}


def _task(inputs: Inputs, params: Params, step: Callable[[dict[str, list[Tensor]]], None]) -> Task:
    """Outputs are the averages after a step, which have no noise in them."""
    lists = _lists(inputs, params)

    def first() -> list[Tensor]:
        fresh = _lists(inputs, params)
        step(fresh)
        return [t for name in ("tau", "g", "v") for t in fresh[name]]

    return Task({"step": Run(lambda: step(lists))}, first)


def ours(inputs: Inputs, params: Params) -> Task:
    """One call for all tensors."""

    def step(lists: dict[str, list[Tensor]]) -> None:
        sghmc_step_(lists["weights"], lists["grads"], *(lists[name] for name in STATE[1:]), seed=0, step=1, **RULE)

    return _task(inputs, params, step)


def _each(name: str, *args: Any) -> Any:
    return getattr(torch, f"_foreach_{name}")(*args)


def foreach(inputs: Inputs, params: Params) -> Task:
    """Each operation for all tensors at once, as torch's own optimizers do."""

    def step(lists: dict[str, list[Tensor]]) -> None:
        w, m, tau, g, v = (lists[name] for name in STATE)
        lr2, decay = RULE["lr"] ** 2, RULE["mdecay"]
        gradient = _each("mul", lists["grads"], RULE["scale_grad"])
        share = _each("add", tau, 1.0)
        _each("reciprocal_", share)
        square = _each("mul", g, g)
        _each("div_", square, _each("add", v, RULE["eps"]))
        _each("mul_", square, tau)
        _each("add_", tau, 1.0)
        _each("sub_", tau, square)
        _each("lerp_", g, gradient, share)
        _each("lerp_", v, _each("mul", gradient, gradient), share)
        scale = _each("sqrt", v)
        _each("add_", scale, RULE["eps"])
        _each("reciprocal_", scale)
        std = _each("mul", scale, 2 * lr2 * decay)
        _each("sub_", std, lr2 * lr2)
        _each("clamp_min_", std, 1e-16)
        _each("sqrt_", std)
        _each("mul_", m, 1 - decay)
        _each("addcmul_", m, scale, gradient, -lr2)
        _each("addcmul_", m, std, [torch.randn_like(t) for t in m])
        _each("add_", w, m)

    return _task(inputs, params, step)


def eager(inputs: Inputs, params: Params) -> Task:
    """Tensor by tensor, as the published samplers are written."""

    def one(w: Tensor, m: Tensor, tau: Tensor, g: Tensor, v: Tensor, grad: Tensor) -> None:
        gradient, share = grad * RULE["scale_grad"], 1 / (tau + 1)
        tau.add_(1 - tau * (g * g / (v + RULE["eps"])))
        g.add_(share * (gradient - g))
        v.add_(share * (gradient.square() - v))
        scale = 1 / (v.sqrt() + RULE["eps"])
        variance = 2 * RULE["lr"] ** 2 * RULE["mdecay"] * scale - RULE["lr"] ** 4
        noise = torch.randn_like(m) * variance.clamp(min=1e-16).sqrt()
        m.add_(-(RULE["lr"] ** 2) * scale * gradient - RULE["mdecay"] * m + noise)
        w.add_(m)

    def step(lists: dict[str, list[Tensor]]) -> None:
        for row in zip(*(lists[name] for name in (*STATE, "grads")), strict=True):
            one(*row)

    return _task(inputs, params, step)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, on one core."""
    params: dict[str, Any] = results[0].params
    if params["device"] != "cpu" or params["threads"] != 1:
        return []
    return times_faster(results, "torch_foreach", LEAST[params["size"]], f"{params['size']} parameters")


CASE = Case(
    name="sghmc_step",
    modes=("step",),
    grid=grid,
    make=make,
    bytes=lambda params, mode: 11 * params["size"] * getattr(torch, params["dtype"]).itemsize,
    judge=judge,
    providers=(
        Provider("ours", ours, eager, kind="ours"),
        Provider("torch_foreach", foreach, eager),
        Provider("torch_eager", eager, eager),
    ),
)
