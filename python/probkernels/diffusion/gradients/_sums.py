"""Sums over a backward pass: what each of a run's inputs gets from the steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._core import checks
from ..solvers.scheme import Registers, Scheme, combine, terms


class Gradients:
    """Sums of gradients over the steps: each tensor has one, added to in place.

    Args:
        scheme: the solver.
        targets: leaves of the run and of its net.
        coefficients: times and coefficients of the scheme, in the order of :meth:`Scheme.parts`.
        given: the noise (N, B, *S) if the user gave it.
    """

    def __init__(
        self, scheme: Scheme, targets: list[Tensor], coefficients: Sequence[Tensor], given: Tensor | None
    ) -> None:
        self.scheme, self.targets, self.given = scheme, targets, given
        self.x: Tensor | None = None
        self.active = [t for t in self.targets if t.requires_grad and not checks.is_sharded(t)]
        self.sums: list[Tensor | None] = [None] * len(self.active)
        self.noise = torch.zeros_like(given) if given is not None and given.requires_grad else None
        self.parts = [torch.zeros_like(c) if c.requires_grad else None for c in coefficients]

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
        scheme = self.scheme
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
        noise = [] if self.given is None else [self.noise]
        return [self.x, *noise, *self.parts, *rest]
