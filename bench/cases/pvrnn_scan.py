"""Whole sequences of a PV-RNN, trained: against the loop over steps that its equations are written as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from probkernels.ops import pvrnn_scan
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

# sequences, steps, units, latents; the last: streams and window of error regression
SIZES = ((10, 24, 10, 1), (64, 24, 64, 8), (100, 10, 10, 1))
REGRESS = "regress"  # an iteration of error regression: forward, and the gradient of A with the weights at rest
NAMES = ("noise", "weight", "bias", "z_weight", "adapt")
LEARNED = ("weight", "bias", "z_weight", "adapt")
LOG_SIGMA = (-20.0, 5.0)
Scan = Callable[[Inputs], tuple[Tensor, Tensor]]


def grid(device: str) -> list[Params]:
    """Ten sequences of a small network, 64 of a wide one, and many short windows; on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": s, "steps": t, "units": d, "latents": z}
        for s, t, d, z in SIZES
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Noise, weights of a usual size, vectors A, and the gradients of states and KL."""
    s, t, d, z = (params[name] for name in ("rows", "steps", "units", "latents"))
    shapes = ((s, t, z), (d + 4 * z, d), (d + 4 * z,), (d, z), (s, t, 2 * z))
    made = {name: torch.randn(shape) for name, shape in zip(NAMES, shapes, strict=True)}
    made["weight"] /= d**0.5
    made["grad_d"], made["grad_kl"] = torch.randn(s, t, d), torch.randn(s, t, z)
    return {name: v.to(device, dtype).requires_grad_(name in LEARNED) for name, v in made.items()}


def traffic(params: Params, mode: str) -> int:
    """Noise, A and what is kept of a step, once forward and twice backward."""
    per_step = {"fwd": 8, "bwd": 14, "fwd+bwd": 22, REGRESS: 22}[mode] * params["latents"] + 2 * params["units"]
    return per_step * params["rows"] * params["steps"] * getattr(torch, params["dtype"]).itemsize


def flops(params: Params, mode: str) -> int:
    """The products of a step: twice as many backward, and those of the latents again."""
    d, z = params["units"], params["latents"]
    forward, again = 2 * (d * d + 5 * d * z), 8 * d * z
    back = 2 * forward + again
    each = {"fwd": forward, "bwd": back, "fwd+bwd": forward + back, REGRESS: back}[mode]  # no products of the weights
    return each * params["rows"] * params["steps"]


def _task(scan: Scan, inputs: Inputs) -> Task:
    learned, grads = [inputs[name] for name in LEARNED], [inputs["grad_d"], inputs["grad_kl"]]

    def forward() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return scan(inputs)

    def backward(outputs: tuple[Tensor, Tensor]) -> Any:
        return torch.autograd.grad(outputs, learned, grads)

    def regress() -> Any:
        adapt = inputs["adapt"].detach().requires_grad_()
        at_rest = {name: v.detach() for name, v in inputs.items()}
        return torch.autograd.grad(scan({**at_rest, "adapt": adapt}), adapt, grads)

    runs = {
        "fwd": Run(forward),
        "bwd": Run(backward, setup=lambda: scan(inputs)),
        "fwd+bwd": Run(lambda: backward(scan(inputs))),
        REGRESS: Run(regress),
    }
    return Task(runs, lambda: [*forward(), *backward(scan(inputs)), *regress()])


def _ours(inputs: Inputs, params: Params) -> Task:
    def scan(given: Inputs) -> tuple[Tensor, Tensor]:
        h0, leak = (given["noise"].new_full(shape, v) for shape, v in _fixed(params))
        found = pvrnn_scan(h0, *(given[n] for n in NAMES[:4]), leak, given["adapt"], log_sigma=LOG_SIGMA)
        return found.d, found.kl

    return _task(scan, inputs)


def _fixed(params: Params) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Shapes and values of the first potentials and of the leak."""
    return ((params["rows"], params["units"]), 0.0), ((params["units"],), 0.5)


def _loop(inputs: Inputs, params: Params) -> Task:
    def scan(given: Inputs) -> tuple[Tensor, Tensor]:
        noise, weight, bias, z_weight, adapt = (given[name] for name in NAMES)
        size = params["units"]
        h = noise.new_zeros(params["rows"], size)
        d, states, divergences = h, [], []
        for t in range(params["steps"]):
            pre = torch.nn.functional.linear(d, weight, bias)
            recurrent, prior_mean, prior_log, mean, log_sigma = pre.split([size, *[params["latents"]] * 4], 1)
            to_mean, to_log = adapt[:, t].chunk(2, 1)
            prior_mean, prior_log = prior_mean.tanh(), prior_log.clamp(*LOG_SIGMA)
            if t == 0:
                prior_mean, prior_log = torch.zeros_like(prior_mean), torch.zeros_like(prior_log)
            mean, log_sigma = (mean + to_mean).tanh(), (log_sigma + to_log).clamp(*LOG_SIGMA)
            sigma = log_sigma.exp()
            z = mean + sigma * noise[:, t]
            far = (prior_mean - mean).square() + sigma.square()
            divergences.append(prior_log - log_sigma + far / (2 * prior_log.exp().square()) - 0.5)
            h = 0.5 * h + 0.5 * (recurrent + z @ z_weight.t())
            d = h.tanh()
            states.append(d)
        return torch.stack(states, 1), torch.stack(divergences, 1)

    return _task(scan, inputs)


CASE = Case(
    name="pvrnn_scan",
    modes=(*TRAINED, REGRESS),
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    providers=(
        Provider("ours_cpu", _ours, _loop, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _loop, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("torch", _loop, _loop),
    ),
)
