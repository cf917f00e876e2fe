"""A sampler's step against the same in torch: a multistep one, one with guidance, one with noise, and cotangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from probkernels.ops import linear_step
from torch import Tensor

from ..case import Case, Inputs, Params, Run, Task, ours_and_torch
from ..machine import cores

ROWS, ELEMENTS = 16, 3 * 256 * 256
MULTISTEP, GUIDED, NOISY, COTANGENTS = "multistep", "guided", "noisy", "cotangents"
MODES = (MULTISTEP, GUIDED, NOISY, COTANGENTS)
# x' and the prediction that stays, of x, the net's output and the last prediction (and of the output without condition)
MULTI = [[0.9, 0.3, -0.1], [1.1, -0.5, 0.0]]
GUIDE = [[0.9, 0.9, -0.6, -0.1], [1.1, -1.5, 1.0, 0.0]]
PLAIN, SPREAD = [[0.9, 0.3]], [0.2]


def grid(device: str) -> list[Params]:
    """Images of 3x256x256 on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": ROWS, "elements": ELEMENTS}
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """Four tensors: the state, two outputs of a net, the last prediction."""
    return {f"x{i}": torch.randn(params["rows"], params["elements"]).to(device, dtype) for i in range(4)}


def traffic(params: Params, mode: str) -> int:
    """Each input and output once."""
    tensors = {MULTISTEP: 3 + 2, GUIDED: 4 + 2, NOISY: 2 + 1, COTANGENTS: 2 + 3}[mode]
    return tensors * params["rows"] * params["elements"] * getattr(torch, params["dtype"]).itemsize


def _task(step: Callable[..., Sequence[Tensor]], x: list[Tensor]) -> Task:
    """``step(inputs, rows of coefficients, noise)``; the cotangents' coefficients are transposed."""
    back = [list(column) for column in zip(*MULTI, strict=True)]
    calls: dict[str, Callable[[], Sequence[Tensor]]] = {
        MULTISTEP: lambda: step(x[:3], MULTI, None),
        GUIDED: lambda: step(x, GUIDE, None),
        NOISY: lambda: step(x[:2], PLAIN, SPREAD),
        COTANGENTS: lambda: step(x[:2], back, None),
    }
    outputs = [MULTISTEP, GUIDED, COTANGENTS]
    return Task({m: Run(call) for m, call in calls.items()}, lambda: [y for m in outputs for y in calls[m]()])


def _ours(inputs: Inputs, params: Params) -> Task:
    x = [inputs[f"x{i}"] for i in range(4)]
    tables = {
        len(c) * 10 + len(c[0]): torch.tensor(c, dtype=torch.float64, device=x[0].device)
        for c in (MULTI, GUIDE, PLAIN, [list(column) for column in zip(*MULTI, strict=True)])
    }
    spread = torch.tensor(SPREAD, dtype=torch.float64, device=x[0].device)

    def step(given: list[Tensor], c: list[list[float]], d: list[float] | None) -> Sequence[Tensor]:
        table = tables[len(c) * 10 + len(c[0])]  # made once, as a sampler makes them
        return linear_step(given, table, noise=None if d is None else spread, seeds=None if d is None else 7)

    return _task(step, x)


def _torch(inputs: Inputs, params: Params) -> Task:
    """Products and sums, those with 0 left out; noise by torch's generator."""

    def step(given: list[Tensor], c: list[list[float]], d: list[float] | None) -> Sequence[Tensor]:
        found = []
        for row in c:
            terms = [a * x for a, x in zip(row, given, strict=True) if a]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            found.append(total if d is None else total + d[0] * torch.randn_like(total))
        return found

    return _task(step, [inputs[f"x{i}"] for i in range(4)])


CASE = Case(
    name="linear_step", modes=MODES, grid=grid, make=make, bytes=traffic, providers=ours_and_torch(_ours, _torch)
)
