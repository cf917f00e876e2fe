"""``Scheme``: a sampler as a general linear method with registers, stages that call the model, and coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._device import on_cpu
from ..process import spread
from ..table import Table

Model = Callable[[int, int, Tensor], Tensor]  # step n, stage s, x (B, *S) -> the prediction (B, *S) at t[n, s]
Noise = Callable[[int], Tensor]  # step -> z (B, *S)
Registers = list[Tensor | None]  # None is zero


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


Term = tuple[float | Tensor, int]  # coefficient and place


def terms(row: Tensor) -> list[Term]:
    """The coefficients (n,) that count: numbers but 0; all, as tensors, if they carry a gradient, as 0 has one too."""
    if row.requires_grad:
        return list(zip(row, range(len(row)), strict=True))
    return [(c, i) for i, c in enumerate(row.tolist()) if c]


def combine(sums: Iterable[tuple[list[Term], Sequence[Tensor | None]]], like: Tensor) -> Tensor | None:
    """The sum of coefficient times value; None for nothing. A value alone with coefficient 1 is itself, not a copy."""
    total: Tensor | None = None
    for weights, values in sums:
        for c, i in weights:
            value = values[i] if i < len(values) else None  # of a stage yet to come
            if value is None:
                continue
            part = value if isinstance(c, float) and c == 1.0 else spread(c, like) * value
            total = part if total is None else total + part
    return total


class Row(NamedTuple):
    """What one sum of a step is made of."""

    registers: list[Term]
    outputs: list[Term]
    noise: list[Term]


class Step(NamedTuple):
    """One step: the inputs of its stages, None for those not evaluated, and the registers after it."""

    stages: list[Row | None]
    registers: list[Row]


def plan(scheme: Scheme) -> list[Step]:
    """The steps with their coefficients as terms."""
    steps, stages = scheme.t.shape
    registers = scheme.carry.shape[1]
    inputs = list(map(Row, *map(all_terms, (scheme.inputs, scheme.stages, scheme.input_noise[..., None]))))
    after = list(map(Row, *map(all_terms, (scheme.carry, scheme.gather, scheme.noise[..., None]))))
    used = scheme.used.tolist()
    return [
        Step(
            [inputs[n * stages + s] if used[n][s] else None for s in range(stages)],
            after[n * registers : (n + 1) * registers],
        )
        for n in range(steps)
    ]


def all_terms(coefficients: Tensor) -> list[list[Term]]:
    """:func:`terms` of every row of (N, R, n): N R lists."""
    rows = coefficients.flatten(0, 1)
    if rows.requires_grad:
        return [terms(row) for row in rows]
    return [[(c, i) for i, c in enumerate(numbers) if c] for numbers in rows.tolist()]


def advance(step: Step, n: int, registers: Registers, model: Model, z: Tensor | None, like: Tensor) -> Registers:
    """The registers after step n; ``z`` (B, *S) where the step has noise."""
    outputs: Registers = []

    def value(row: Row) -> Tensor | None:
        return combine([(row.registers, registers), (row.outputs, outputs), (row.noise, [z])], like)

    for s, row in enumerate(step.stages):
        u = None if row is None else value(row)
        outputs.append(None if u is None else model(n, s, u))
    return [value(row) for row in step.registers]


def run(scheme: Scheme, model: Model, x: Tensor, noise: Noise, after: Callable[[int, Tensor], None]) -> Tensor:
    """The sample (B, *S) from x_T (B, *S), in whatever gradient mode is on; ``after(n, x)`` follows every step."""
    registers: Registers = [x, *[None] * (scheme.carry.shape[1] - 1)]
    now: Tensor | None = x
    for n, (step, draws) in enumerate(zip(plan(scheme), scheme.draws, strict=True)):
        registers = advance(step, n, registers, model, noise(n) if draws else None, x)
        now = registers[0]
        assert now is not None
        after(n, now)
    assert now is not None
    return now


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
