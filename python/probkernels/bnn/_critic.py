"""The critic of the Wasserstein-1 distance: a small network whose slope is kept near 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = ("lp", "gp")


class Critic:
    """phi: M -> width -> width -> 1 with softplus; Xavier-normal weights, standard normal biases.

    The gradient with respect to the input is a formula of the forward pass, so that its penalty needs no second
    backward pass. Inputs have shape (..., M).
    """

    def __init__(self, points: int, like: Tensor, generator: torch.Generator, width: int = 200) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

        sizes = [(points, width), (width, width), (width, 1)]
        self.weights = [normal(n, m) * math.sqrt(2 / (n + m)) for n, m in sizes]
        self.biases = [normal(m) for _, m in sizes]
        self.parameters = [p.requires_grad_() for p in (*self.weights, *self.biases[:2])]  # the last one cancels

    def __call__(self, f: Tensor) -> Tensor:
        """phi(f) (...)."""
        return self._forward(f)[0]

    def _forward(self, f: Tensor) -> tuple[Tensor, list[Tensor]]:
        (w1, w2, w3), (b1, b2, b3) = self.weights, self.biases
        first = f @ w1 + b1
        second = F.softplus(first) @ w2 + b2
        return (F.softplus(second) @ w3 + b3)[..., 0], [first, second]

    def gap(self, f_nn: Tensor, f_gp: Tensor) -> Tensor:
        """mean phi(f_nn) - mean phi(f_gp), summed over outputs: (outputs, n, M) each."""
        return (self(f_nn).mean(-1) - self(f_gp).mean(-1)).sum()

    def slope(self, f: Tensor) -> Tensor:
        """|grad phi| (...)."""
        w1, w2, w3 = self.weights
        first, second = self._forward(f)[1]
        back = (second.sigmoid() * w3[:, 0]) @ w2.mT
        return ((first.sigmoid() * back) @ w1.mT).norm(dim=-1)

    def fit(
        self, f_nn: Tensor, f_gp: Tensor, generator: torch.Generator, *, steps: int, lr: float, weight: float,
        penalty: str, tolerance: float,
    ) -> int:  # fmt: skip
        """Maximizes the gap less the penalty by Adagrad, until the gradient's norm is below ``tolerance``. Returns the
        number of steps."""
        optimizer = torch.optim.Adagrad(self.parameters, lr)
        for step in range(steps):
            share = torch.rand(f_nn.shape[:-1], generator=generator, dtype=f_nn.dtype, device=f_nn.device)[..., None]
            excess = self.slope(share * f_nn + (1 - share) * f_gp) - 1
            excess = excess.clamp(min=0) if penalty == "lp" else excess
            loss = weight * excess.square().mean(-1).sum() - self.gap(f_nn, f_gp)
            grads = torch.autograd.grad(loss, self.parameters)
            if tolerance and math.sqrt(sum(float(g.square().sum()) for g in grads)) < tolerance:
                return step
            for p, grad in zip(self.parameters, grads, strict=True):
                p.grad = grad
            optimizer.step()
        return steps
