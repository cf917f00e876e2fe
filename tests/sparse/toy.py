"""The seed-free toy of the method's oracles, and the dense masked optimizer that everything must equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

THETA, LR, DECAY = 0.2, 0.05, 0.01


def matrix(rows: int, columns: int, shift: float) -> Tensor:
    r = torch.arange(rows, dtype=torch.float64)[:, None]
    c = torch.arange(columns, dtype=torch.float64)
    return torch.sin(1 + 1.7 * r + 0.9 * c + shift) * torch.cos(0.3 * r * c + shift)


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight.copy_(matrix(6, 5, 0))
        model[0].bias.copy_(0.1 * torch.arange(6))
        model[2].weight.copy_(matrix(3, 6, 0.5))
        model[2].bias.copy_(-0.1 * torch.arange(3))
    return model.to(dtype)


def batch(k: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x (4, 5) and y (4, 3) of step k = 1, 2, ..."""
    r = torch.arange(4, dtype=torch.float64)[:, None]
    x = torch.cos(0.5 + r - 0.7 * torch.arange(5) + 0.3 * k)
    return x.to(dtype), torch.sin(r + torch.arange(3) + 0.2 * k).to(dtype)


def loss_of(model: nn.Module, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x, y = batch(k, dtype)
    return (model(x) - y).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, dtype: torch.dtype = torch.float32) -> list:
    """The losses before each step."""
    losses = []
    for k in steps:
        optimizer.zero_grad()
        loss = loss_of(model, k, dtype)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


class MaskedAdamW:
    """Dense AdamW over all weights that puts every unselected entry back after each step."""

    def __init__(self, model: nn.Module, threshold: float, progressive_iter: int = 0, **settings: float) -> None:
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, foreach=False, **settings)
        self.threshold, self.progressive_iter, self.updates = threshold, progressive_iter, 0
        self.masks = [p.detach().abs() < threshold for p in self.parameters]

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        before = [p.detach().clone() for p in self.parameters]
        self.optimizer.step()
        with torch.no_grad():
            for p, old, mask in zip(self.parameters, before, self.masks, strict=True):
                p.copy_(torch.where(mask, p, old))
        self.updates += 1
        if self.updates == self.progressive_iter:
            self.masks = [
                mask & (p.detach().abs() < self.threshold) for p, mask in zip(self.parameters, self.masks, strict=True)
            ]


def frozen_equal(before: dict[str, Tensor], after: dict[str, Tensor], selections: dict) -> None:
    """Every entry outside the selections has the bits that it had."""
    assert before.keys() == after.keys()
    for name, old in before.items():
        mask = selections[name].to_mask() if name in selections else torch.zeros_like(old, dtype=torch.bool)
        assert torch.equal(old[~mask], after[name][~mask]), name
