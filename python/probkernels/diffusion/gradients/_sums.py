"""Sums over a backward pass: what each of a run's inputs gets from the steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._core import checks
from ...ops.linear_step import dots
from ..solvers.mixing import Registers, blocks


class Gradients:
    """Sums of gradients over the steps: each tensor has one, added to in place.

    Args:
        targets: leaves of the run and of its net.
        coefficients: entries of points, and coefficients of the steps.
        given: the noise (N, B, *S) if the user gave it.
        like: a tensor on the device of the states.
    """

    def __init__(
        self, targets: list[Tensor], coefficients: Sequence[Tensor], given: Tensor | None, like: Tensor
    ) -> None:
        self.targets, self.given = targets, given
        self.x: Tensor | None = None
        self.active = [t for t in self.targets if t.requires_grad and not checks.is_sharded(t)]
        self.sums: list[Tensor | None] = [None] * len(self.active)
        self.noise = torch.zeros_like(given) if given is not None and given.requires_grad else None
        # sums on the states' device: nothing waits for it before the end
        self.parts = [torch.zeros_like(c, device=like.device) if c.requires_grad else None for c in coefficients]
        self.devices = [c.device for c in coefficients]

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

    def add_noise(self, n: int, grad: Tensor | None) -> None:
        if self.noise is not None and grad is not None:
            self.noise[n] = grad

    def add_coefficients(self, n: int, values: Registers, stages: Registers, registers: Registers) -> None:
        """Of step n, for zeros too: <cotangent of the sum, value>, from those of stages' inputs and of registers."""
        columns = [i for i, value in enumerate(values) if value is not None]
        given = [value for value in values if value is not None]
        for part, cotangents in zip(self.parts[1:], (stages, registers), strict=True):
            rows = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
            if part is None or not rows:
                continue
            left = torch.stack([cotangents[i] for i in rows])  # type: ignore[misc]
            by_row = part.shape[1] > 1
            for some in blocks(len(rows)):
                for others in blocks(len(given)):
                    found = dots(left[some], given[others], by_row)
                    for i, row in enumerate(rows[some]):
                        for j, column in enumerate(columns[others]):
                            part[n, :, row, column] = found[..., i, j]

    def in_order(self) -> list[Tensor | None]:
        """As :meth:`Plan.inputs`."""
        sums = iter(self.sums)
        rest = [next(sums) if t.requires_grad and not checks.is_sharded(t) else None for t in self.targets]
        noise = [] if self.given is None else [self.noise]
        parts = [None if p is None else p.to(d) for p, d in zip(self.parts, self.devices, strict=True)]
        return [self.x, *noise, *parts, *rest]
