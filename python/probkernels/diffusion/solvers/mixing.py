"""Runs a scheme: what is linear in a step is multiplied into its coefficients once a run, and a step is then one pass.

The values of a step are R registers, the net's outputs and noise. Stages' inputs and registers after the step are sums
of them, with coefficients made of the scheme's own, the conversion of the net's prediction and the guidance weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..._core.registry import carries_gradient, numbers_known
from ...ops.linear_step import MOST, apply
from ..noise import Draw
from .scheme import Scheme

Registers = list[Tensor | None]  # None is zero
Value = Tensor | Draw | None
Model = Callable[[int, int, Tensor], Tensor]  # step n, stage s, x (B, *S) -> the net's outputs (G, B, *S) at t[n, s]
Noise = Callable[[int], Tensor | Draw]  # step -> z (B, *S)
After = Callable[[int, Tensor], Tensor | None]  # step, x (B, *S) after it -> a state to go on from, or None


class Prediction(NamedTuple):
    """A stage's prediction from its input u and the net's G outputs: ``on_x u + on_output sum_g share_g output_g``.

    float64: ``on_x`` and ``on_output`` (N, S) or (1, 1), ``share`` (1, G) or, if rows have their own guidance, (B, G).
    """

    on_x: Tensor
    on_output: Tensor
    share: Tensor


ONE = torch.ones(1, 1, dtype=torch.float64, device="cpu")
AS_IT_IS = Prediction(0 * ONE, ONE, ONE)  # of a model whose output is the prediction


def fold(scheme: Scheme, prediction: Prediction, constant: int = 0) -> tuple[Tensor, Tensor]:
    """The coefficients of the stages' inputs (N, b, S, W) and of the registers after a step (N, b, R, W).

    W = R + S G + 1: registers, outputs of the net, noise. b is 1, or B if rows have their own. float64, differentiable,
    but in the first ``constant`` steps, where predictions count as constants.
    """
    steps, stages, registers = scheme.inputs.shape
    b, outputs = prediction.share.shape
    width = registers + stages * outputs + 1

    def of_values(of_registers: Tensor, of_noise: Tensor) -> Tensor:
        between = of_registers.new_zeros(*of_registers.shape[:2], stages * outputs)
        return torch.cat([of_registers, between, of_noise[..., None]], -1)[:, None].expand(-1, b, -1, -1)

    on_x, on_output = (part.expand(steps, stages) for part in prediction[:2])
    on_outputs = on_output[:, None, :, None] * prediction.share[None, :, None]  # (N, b, S, G)
    inputs = list(of_values(scheme.inputs, scheme.input_noise).unbind(2))  # (N, b, W) each
    predicted: list[Tensor] = []
    for s in range(stages):
        for q in range(s):
            inputs[s] = inputs[s] + scheme.stages[:, s, q, None, None] * predicted[q]
        place = registers + s * outputs
        own = torch.nn.functional.pad(on_outputs[:, :, s], (place, width - place - outputs))
        all_steps = on_x[:, s, None, None] * inputs[s] + own
        predicted.append(torch.cat([all_steps[:constant].detach(), all_steps[constant:]]))
    after = of_values(scheme.carry, scheme.noise) + scheme.gather[:, None] @ torch.stack(predicted, 2)
    return torch.stack(inputs, 2), after


class Mix(NamedTuple):
    """Sums of values with coefficients.

    places: for each sum the value that it is, which is then not copied; None if it is computed. The place after the
        last value, which holds None, stands for zero.
    columns: the values that computed sums are of.
    c: ([B,] computed sums, columns) float64.
    """

    places: list[int | None]
    columns: list[int]
    c: Tensor

    def __call__(self, values: Sequence[Value]) -> Registers:
        """The sums of ``values``; None for zero. A sum that is one of the values is never the noise."""
        if None not in self.places:
            return [values[i] for i in self.places]  # type: ignore[index, misc]
        total = self.stacked(values)
        # the last sum of a run is the sample: no view of many, which could not be changed in place
        computed = iter(() if total is None else [total.squeeze(0)] if len(total) == 1 else total.unbind(0))
        return [next(computed, None) if i is None else values[i] for i in self.places]  # type: ignore[misc]

    def stacked(self, values: Sequence[Value]) -> Tensor | None:
        """The computed sums (sums, B, *S) in one tensor; None if all values are zero."""
        given, c = [values[i] for i in self.columns], self.c
        if any(value is None for value in given):
            c = c[..., [i for i, value in enumerate(given) if value is not None]]
        present = [value for value in given if value is not None]
        return combined(present, c) if present else None


def blocks(n: int) -> list[slice]:
    """0 .. n - 1 in as many parts as the op needs, which takes few tensors at a time."""
    return [slice(i, min(i + MOST, n)) for i in range(0, n, MOST)]


def combined(values: Sequence[Tensor | Draw], c: Tensor) -> Tensor:
    """:func:`linear_step` of any number of values and sums, without its checks: (sums, B, *S). Noise is the last."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    draw = values[-1] if isinstance(values[-1], Draw) else None
    if draw is not None and not tensors:  # the op draws beside a tensor only
        tensors, draw = [draw.tensor()], None
    width = len(tensors)

    def of_rows(rows: slice) -> Tensor:
        first, *others = blocks(width)
        noise = None if draw is None else (c[..., rows, width], draw.source.seeds, draw.source.seed, draw.step)
        total = apply(tensors[first], c[..., rows, first], *(noise or ()))
        for some in others:
            total = total + apply(tensors[some], c[..., rows, some])
        return total

    parts = [of_rows(rows) for rows in blocks(c.shape[-2])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def mixes(c: Tensor, like: Tensor, alone: int) -> list[Mix]:
    """The N steps of coefficients (N, b, rows, W), for values as ``like``.

    A coefficient of 0 does not count, unless it carries a gradient. The first ``alone`` values are not copied if a sum
    is one of them with coefficient 1.
    """
    steps, _, rows, width = c.shape
    counts = torch.ones(steps, rows, width, dtype=torch.bool, device="cpu")
    ones = ~counts
    if numbers_known(c) and not carries_gradient(c):
        counts, ones = (c != 0).any(1), (c == 1).all(1)
    alike: dict[tuple[tuple[int | None, ...], tuple[int, ...]], list[int]] = {}  # steps with the same structure
    for n, (count, one) in enumerate(zip(counts.tolist(), ones.tolist(), strict=True)):
        places: list[int | None] = []
        columns: set[int] = set()
        for row, same in zip(count, one, strict=True):
            found = [i for i, counted in enumerate(row) if counted]
            itself = len(found) == 1 and same[found[0]] and found[0] < alone
            places.append(found[0] if itself else None if found or not alone else width)
            columns |= set(found) if places[-1] is None else set()
        alike.setdefault((tuple(places), tuple(sorted(columns))), []).append(n)
    made: dict[int, Mix] = {}
    for (where, of), members in alike.items():
        computed = [r for r, place in enumerate(where) if place is None]
        part = c if len(members) == steps else c[members]
        part = part[:, :, computed][..., list(of)].contiguous().to(like.device)
        each = part.unbind(0) if part.shape[1] > 1 else part.squeeze(1).unbind(0)
        made |= {n: Mix(list(where), list(of), own) for n, own in zip(members, each, strict=True)}
    return [made[n] for n in range(steps)]


class Step(NamedTuple):
    """One step: the inputs of its stages, None for those not evaluated, and the registers after it."""

    stages: list[Mix | None]
    after: Mix
    outputs: int  # G

    def __call__(self, n: int, registers: Registers, model: Model, z: Value) -> Registers:
        """The registers after step n; ``z`` (B, *S) where the step has noise."""
        first, last = len(registers), len(self.stages) - 1
        values: list[Value] = [*registers, *[None] * (len(self.stages) * self.outputs), z, None]
        for s, mix in enumerate(self.stages):
            u = None if mix is None else mix(values)[0]
            if u is not None:
                k = model(n, s, u).to(u.dtype)
                place = first + s * self.outputs
                # a net may use the memory of its output again in its next call
                values[place : place + self.outputs] = (k if s == last else k.clone()).unbind(0)
        return self.after(values)


def plan(scheme: Scheme, inputs: Tensor, after: Tensor, like: Tensor) -> list[Step]:
    """The steps of coefficients made by :func:`fold`. The last one gives the sample alone."""
    stages, registers = scheme.inputs.shape[1:]
    of_stages = [mixes(inputs[:, :, s : s + 1], like, registers) for s in range(stages)]
    of_registers = mixes(after[:-1], like, registers) + mixes(after[-1:, :, :1], like, registers)
    used, outputs = scheme.used.tolist(), (after.shape[3] - registers - 1) // stages
    return [
        Step([of_stages[s][n] if used[n][s] else None for s in range(stages)], of_registers[n], outputs)
        for n in range(scheme.steps)
    ]


def start(scheme: Scheme, x: Tensor) -> Registers:
    """The registers before the first step, for x_T (B, *S)."""
    return [x, *[None] * (scheme.carry.shape[1] - 1)]


def run(scheme: Scheme, steps: list[Step], model: Model, x: Tensor, noise: Noise, after: After) -> Tensor:
    """The sample (B, *S) from x_T (B, *S), in whatever gradient mode is on; ``after(n, x)`` follows every step, and may
    return a state to go on from."""
    registers, now = start(scheme, x), x
    for n, (step, draws) in enumerate(zip(steps, scheme.draws, strict=True)):
        registers = step(n, registers, model, noise(n) if draws else None)
        assert registers[0] is not None
        changed = after(n, registers[0])
        if changed is not None:
            registers[0] = changed
        now = registers[0]
    return now.clone() if now is x else now  # steps that leave x as it is: a sample shares no memory with x_T
