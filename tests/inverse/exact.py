"""Potentials in closed form: proximal operators that are known exactly."""

from __future__ import annotations

import torch
from probkernels.inverse import ConvexPotential
from torch import Tensor


class Exact(ConvexPotential):
    """A potential without layers."""

    def __init__(self, strong_convexity: float = 0.0) -> None:
        torch.nn.Module.__init__(self)
        self.strong_convexity, self.weights = strong_convexity, "clamp"
        self.lin = torch.nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]


class SoftThreshold(Exact):
    """psi = 1/2 max(|y| - 1, 0)^2: R is |x|."""

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rest = (x.abs() - 1).clamp_min(0)
        return 0.5 * rest.square().flatten(1).sum(1), torch.sign(x) * rest


class Gaussian(Exact):
    """psi = c / 2 ||y||^2: the prior N(0, s^2 I) with c = s^2 / (s^2 + sigma^2)."""

    def __init__(self, c: float) -> None:
        super().__init__(c)
        self.c = c

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * self.c * x.square().flatten(1).sum(1), self.c * x
