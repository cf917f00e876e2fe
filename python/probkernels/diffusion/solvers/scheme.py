"""``Scheme``: a sampler as a general linear method with registers, stages that call the model, and coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._device import on_cpu
from ..table import Table


@dataclass(frozen=True, eq=False)
class Scheme:
    """A general linear method of N steps with R registers and S stages; float64 tensors on the CPU.

    Registers hold what a step passes to the next one: the state, earlier evaluations, earlier states. In step n

        u_s = sum_r inputs[n, s, r] R_r + sum_{q < s} stages[n, s, q] k_q + input_noise[n, s] z_n
        k_s = model of ``kind`` at (u_s, t[n, s])
        R'_r = sum_q carry[n, r, q] R_q + sum_s gather[n, r, s] k_s + noise[n, r] z_n

    At the start register 0 holds x_T and all other registers 0; at the end register 0 holds the sample. Stages that
    nothing uses are not evaluated. A multistep method has one stage and keeps earlier evaluations in registers; a
    Runge-Kutta method has one register and several stages. Every part is linear, so one adjoint serves all methods.

    Args:
        t: (N, S) times at which the model is called.
        inputs: (N, S, R).
        stages: (N, S, S), strictly lower triangular.
        input_noise: (N, S).
        carry: (N, R, R).
        gather: (N, R, S).
        noise: (N, R).
        kind: what the model predicts, "eps" or "x0".
        times: (N+1,) times of the states between the steps.

    Reference:
        Butcher, General linear methods, Acta Numerica 2006.

    Example:
        >>> from probkernels.diffusion import VP, grid, scheme
        >>> heun = scheme(VP(), grid(VP(), 10), "heun")
        >>> heun.steps, heun.evaluations
        (10, 20)
    """

    t: Tensor
    inputs: Tensor
    stages: Tensor
    input_noise: Tensor
    carry: Tensor
    gather: Tensor
    noise: Tensor
    kind: str
    times: Tensor
    used: Tensor = field(init=False, repr=False)  # (N, S) bool: stages that something depends on

    def __post_init__(self) -> None:
        used = (self.gather != 0).any(1) | (self.stages != 0).any(1)
        object.__setattr__(self, "used", used)

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.t)

    @property
    def evaluations(self) -> int:
        """How many times the model is called in total."""
        return int(self.used.sum())

    @property
    def of_states(self) -> bool:
        """Whether registers beside the first one hold states too: a change of the current state would miss them."""
        return bool((self.carry[:, 1:, 0] != 0).any())

    @property
    def places(self) -> list[tuple[int, int]]:
        """Steps and stages at which the model is called, in the order of ``t[used]``."""
        return [(n, s) for n, row in enumerate(self.used.tolist()) for s, used in enumerate(row) if used]

    @property
    def draws(self) -> list[bool]:
        """Which steps use noise."""
        return ((self.noise != 0).any(1) | (self.input_noise != 0).any(1)).tolist()

    def parts(self) -> Iterator[Tensor]:
        """The coefficients."""
        yield from (self.inputs, self.stages, self.input_noise, self.carry, self.gather, self.noise)


@on_cpu
def zeros(n: int, stages: int, registers: int) -> dict[str, Tensor]:
    """Coefficients of a scheme, all zero."""
    shapes = {
        "inputs": (n, stages, registers),
        "stages": (n, stages, stages),
        "input_noise": (n, stages),
        "carry": (n, registers, registers),
        "gather": (n, registers, stages),
        "noise": (n, registers),
    }
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}


def from_table(table: Table) -> Scheme:
    """A multistep method: registers are the state and m_{n-1}, m_{n-2}, ..."""
    n, history = table.b.shape
    c = zeros(n, 1, history)
    c["inputs"][:, 0, 0] = 1
    c["carry"][:, 0, 0] = table.a
    c["carry"][:, 0, 1:] = table.b[:, 1:]
    c["gather"][:, 0, 0] = table.b[:, 0]
    if history > 1:
        c["gather"][:, 1, 0] = 1
    for r in range(2, history):
        c["carry"][:, r, r - 1] = 1
    c["noise"][:, 0] = table.d
    return Scheme(table.t[:, None], **c, kind=table.kind, times=table.times)
