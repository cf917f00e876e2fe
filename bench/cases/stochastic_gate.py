"""Stochastic gates of 2000 experts: drawn, applied and differentiated; against torch; floor: their noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import philox_normal, philox_uniform, stochastic_gate
from probkernels.ops.stochastic_gate import MODES
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

ROWS, ELEMENTS = 256, 2000
SEED = 7
CHECKED = 2  # rows that are compared with float64: in many more a number may lie between two roundings of p
GATES_ALONE = "gates alone"  # straight-through without values; all other modes have them
Gate = Callable[[str, Tensor, "Tensor | None"], Tensor]


def grid(device: str) -> list[Params]:
    """On one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": ROWS, "elements": ELEMENTS}
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Pre-activations, values and the gradient."""
    shape = params["rows"], params["elements"]
    made = {name: torch.randn(shape).to(device, dtype) for name in ("a", "v", "grad")}
    return {name: t.requires_grad_(name != "grad") for name, t in made.items()}


def traffic(params: Params, mode: str) -> int:
    """Each input and output once, forward and backward."""
    tensors = 2 if mode == GATES_ALONE else 3 + 5
    return tensors * params["rows"] * params["elements"] * getattr(torch, params["dtype"]).itemsize


def _trained(gate: Gate, inputs: Inputs, outputs: Callable[[], list[Tensor]]) -> Task:
    a, v, grad = (inputs[name] for name in ("a", "v", "grad"))
    calls = {m: lambda m=m: torch.autograd.grad(gate(m, a, v), [a, v], grad) for m in MODES}
    calls[GATES_ALONE] = lambda: torch.autograd.grad(gate(MODES[0], a, None), [a], grad)
    return Task({mode: Run(call) for mode, call in calls.items()}, outputs)


def _ours(inputs: Inputs, params: Params) -> Task:
    def gate(mode: str, a: Tensor, v: Tensor | None) -> Tensor:
        return stochastic_gate(a, v, mode=mode, seeds=SEED)

    def outputs() -> list[Tensor]:
        a, v, grad = (inputs[name][:CHECKED] for name in ("a", "v", "grad"))
        gated = [gate(mode, a, v) for mode in MODES]
        return [t for y in gated for t in (y, *torch.autograd.grad(y, [a, v], grad))]

    return _trained(gate, inputs, outputs)


def eager(mode: str, a: Tensor, v: Tensor | None) -> Tensor:
    """The gate as it is written in torch."""
    if mode == "rectifier_gauss":
        h = torch.relu(a + torch.randn_like(a))
    elif mode == "rectifier_logistic":
        u = torch.rand_like(a)
        h = torch.relu(a + (torch.log(u) - torch.log1p(-u)))
    elif mode == "times_smooth":
        size = torch.sigmoid(a).sqrt()
        h = torch.bernoulli(size.detach()) * size
    else:
        p = torch.sigmoid(a)
        smooth = a if mode == "straight_through" else p
        h = torch.bernoulli(p.detach()) + (smooth - smooth.detach())
    return h if v is None else h * v


def _torch(inputs: Inputs, params: Params) -> Task:
    def outputs() -> list[Tensor]:  # other numbers: what has none is compared
        a, v = inputs["a"], inputs["v"]
        return list(torch.autograd.grad(torch.relu(a) * v, [a, v], inputs["grad"]))

    return _trained(eager, inputs, outputs)


def _noise(inputs: Inputs, params: Params) -> Task:
    """The noise alone: once forward, and once backward where it is drawn again."""
    a = inputs["a"]

    def draw(mode: str) -> Callable[[], list[Tensor]]:
        function = philox_normal if mode == "rectifier_gauss" else philox_uniform
        times = 1 if mode == GATES_ALONE else 2
        return lambda: [function(SEED, a.shape, dtype=a.dtype, device=a.device) for _ in range(times)]

    calls = {mode: draw(mode) for mode in (*MODES, GATES_ALONE)}
    return Task({mode: Run(call) for mode, call in calls.items()}, calls[MODES[0]])


CASE = Case(
    name="stochastic_gate",
    modes=(*MODES, GATES_ALONE),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _ours, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _ours, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch", _torch, _torch),
        Provider("noise", _noise, _noise, kind="floor"),
    ),
)
