"""Sums over a backward pass: what each of a run's inputs gets from the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._core import checks
from ..solvers.scheme import Registers, combine, terms

if TYPE_CHECKING:
    from .exact import Plan


class Gradients:
    """Sums of gradients over the steps: each tensor has one, added to in place."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.x: Tensor | None = None
        self.targets = [*plan.leaves, *plan.net.leaves]
        self.active = [t for t in self.targets if t.requires_grad and not checks.is_sharded(t)]
        self.sums: list[Tensor | None] = [None] * len(self.active)
        given = plan.made.noise.given
        self.noise = torch.zeros_like(given) if given is not None and given.requires_grad else None
        self.parts = [torch.zeros_like(c) if c.requires_grad else None for c in plan.coefficients]

    def add(self, grads: list[Tensor | None]) -> None:
        """Gradients of the active tensors."""
        for i, grad in enumerate(grads):
            total = self.sums[i]
            if total is None:
                self.sums[i] = None if grad is None else grad.clone()
            elif grad is not None:
                total.add_(grad)

    def add_point(self, i: int, grad: Tensor | None) -> None:
        if grad is not None and self.parts[0] is not None:
            self.parts[0][i] += grad

    def add_noise(self, n: int, z: Tensor | None, cotangents: Registers, stages: list[Tensor | None]) -> None:
        if self.noise is None or z is None:
            return
        scheme = self.plan.scheme
        rows = [(terms(scheme.noise[n].detach()), cotangents), (terms(scheme.input_noise[n].detach()), stages)]
        total = combine(rows, z)
        if total is not None:
            self.noise[n] = total

    def add_coefficients(
        self,
        n: int,
        registers: Registers,
        outputs: list[Tensor | None],
        z: Tensor | None,
        cotangents: Registers,
        stages: list[Tensor | None],
    ) -> None:
        """d / d coefficient = <cotangent of what it adds to, what it multiplies>, for zeros too."""
        factors = ((stages, registers), (stages, outputs), (stages, [z]), (cotangents, registers),
                   (cotangents, outputs), (cotangents, [z]))  # fmt: skip
        for part, (left, right) in zip(self.parts[1:], factors, strict=True):
            if part is None:
                continue
            for i, a in enumerate(left):
                for j, b in enumerate(right):
                    if a is not None and b is not None:
                        part[n].view(len(left), -1)[i, j] = (a.double() * b.double()).sum().cpu()

    def in_order(self) -> list[Tensor | None]:
        """As :meth:`Plan.inputs`."""
        sums = iter(self.sums)
        rest = [next(sums) if t.requires_grad and not checks.is_sharded(t) else None for t in self.targets]
        noise = [] if self.plan.made.noise.given is None else [self.noise]
        return [self.x, *noise, *self.parts, *rest]
