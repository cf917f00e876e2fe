"""A step of leapfrog in fixed point and its way back with cotangents, against the same in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from probkernels.ops import leapfrog_adjoint_, leapfrog_step_
from probkernels.reference import leapfrog_step as reference
from torch import Tensor

from ..case import Case, Inputs, Params, Run, Task, ours_and_torch
from ..machine import cores

ROWS, ELEMENTS = 16, 3 * 256 * 256
FORWARD, BACKWARD, BOTH = MODES = ("forward", "backward", "both")
ALPHA, HALF, ONE = 0.9, 0.05, 2.0**36


def grid(device: str) -> list[Params]:
    """Images of 3x256x256 on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "rows": ROWS, "elements": ELEMENTS}
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """The state in fixed point, an evaluation and cotangents."""
    size = params["rows"], params["elements"]
    state = {name: (torch.randn(size).double() * ONE).long().to(device) for name in ("y", "p")}
    return {**state, **{name: torch.randn(size).to(device, dtype) for name in ("e", "to_y", "to_p", "along")}}


def traffic(params: Params, mode: str) -> int:
    """Forward: y and p read and written, an evaluation read, x and the state between written. Back: the state between
    is not; three cotangents read and written."""
    size = getattr(torch, params["dtype"]).itemsize
    forward, backward = 4 * 8 + 3 * size, 4 * 8 + 2 * size + 6 * size
    each = {FORWARD: forward, BACKWARD: backward, BOTH: forward + backward}[mode]
    return each * params["rows"] * params["elements"]


Step = Callable[[Inputs, Tensor, Tensor | None, bool], None]
Adjoint = Callable[[Inputs, Tensor], None]


def _task(inputs: Inputs, step: Step, adjoint: Adjoint) -> Task:
    """Every timed call goes on from the last; the output is what one gives."""

    def forward(at: Inputs) -> list[Tensor]:
        x, seen = torch.empty_like(at["e"]), torch.empty_like(at["e"])
        step(at, x, seen, False)
        return [x, seen]

    def backward(at: Inputs) -> list[Tensor]:
        x, out = torch.empty_like(at["e"]), torch.empty_like(at["e"])
        step(at, x, None, True)
        adjoint(at, out)
        return [x, out]

    def outputs() -> list[Tensor]:
        fresh = {name: t.clone() for name, t in inputs.items()}
        return [*forward(fresh), *backward(fresh)]

    mine = {name: t.clone() for name, t in inputs.items()}
    runs = {
        FORWARD: Run(lambda: forward(mine)),
        BACKWARD: Run(lambda: backward(mine)),
        BOTH: Run(lambda: (forward(mine), backward(mine))),
    }
    return Task(runs, outputs)


def _ours(inputs: Inputs, params: Params) -> Task:
    bad = torch.zeros(1, dtype=torch.int32, device=inputs["e"].device)

    def step(at: Inputs, x: Tensor, seen: Tensor | None, undo: bool) -> None:
        half = -HALF if undo else HALF
        leapfrog_step_(
            at["y"], at["p"], x, bad, alpha=ALPHA, e=at["e"], first=half, second=half, undo=undo, seen=seen, last=ALPHA
        )

    def adjoint(at: Inputs, out: Tensor) -> None:
        leapfrog_adjoint_(at["to_y"], at["to_p"], at["along"], out, alpha=ALPHA, first=HALF, second=HALF)

    return _task(inputs, step, adjoint)


def _torch(inputs: Inputs, params: Params) -> Task:
    """The reference: what the library did before it had the op."""
    bad = torch.zeros(1, dtype=torch.int32, device=inputs["e"].device)

    def step(at: Inputs, x: Tensor, seen: Tensor | None, undo: bool) -> None:
        half, scaled = -HALF if undo else HALF, ALPHA / ONE
        reference.leapfrog_step_(
            x, at["y"], at["p"], None, at["e"], seen, bad, 2 * ONE, half, half, scaled, scaled, 1024, undo
        )

    def adjoint(at: Inputs, out: Tensor) -> None:
        reference.leapfrog_adjoint_(at["to_y"], at["to_p"], at["along"], out, ALPHA, HALF, HALF, 1.0, 2.0)

    return _task(inputs, step, adjoint)


CASE = Case(
    name="leapfrog_step", modes=MODES, grid=grid, make=make, bytes=traffic, providers=ours_and_torch(_ours, _torch)
)
