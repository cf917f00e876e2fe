"""The digits in four levels, the machines, and the models beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...energy import Coupling, MonotoneCoupling, MonotoneDBM
from ...energy.couplings import Product
from ..harness import datasets
from .records import MONOTONE, M

PIXELS, LEVELS, HIDDEN, LABEL, SHARE = 64, 4, 64, 128, 0.4
SIZES = [LEVELS] * (PIXELS + HIDDEN) + [10]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test pixels (N, 64) in four levels, with their labels."""
    datasets.require_sklearn()
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x, y, test_size=450, random_state=0, stratify=y)
    train, test, labels, test_labels = (torch.tensor(part) for part in parts)
    levels = [(part * LEVELS / 17).long() for part in (train, test)]
    return levels[0], levels[1], labels.long(), test_labels.long()


def query(pixels: Tensor, labels: Tensor | None = None) -> Tensor:
    """States of all groups (N, 129): -1 where there is none to know."""
    states = torch.full((len(pixels), len(SIZES)), -1)
    states[:, :PIXELS] = pixels
    if labels is not None:
        states[:, LABEL] = labels
    return states


class FreeCoupling(Coupling):
    """A symmetric coupling without any bound."""

    others: Tensor

    def __init__(self, sizes: list[int]) -> None:
        super().__init__("FreeCoupling", sizes, M)
        self.weight = nn.Parameter(torch.randn(self.groups.states, self.groups.states) / 50)
        group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("others", group[:, None] != group, persistent=False)

    def product(self) -> Product:
        """The function q -> Phi q."""
        phi = (self.weight + self.weight.mT) / 2 * self.others
        return lambda q: q @ phi


def machine(way: str) -> MonotoneDBM:
    """A machine before its training."""
    torch.manual_seed(0)
    coupling: Coupling = MonotoneCoupling(SIZES, 512, M) if way == MONOTONE else FreeCoupling(SIZES)
    return MonotoneDBM(coupling, alpha=0.25, tol=1e-4, max_iterations=50, scale=math.sqrt(10))


def repelling() -> MonotoneDBM:
    """Ten groups of two states, each of which pushes all others to its other state: L is 9.1."""
    coupling = MonotoneCoupling([2] * 10, 2, 0.1)
    model = MonotoneDBM(coupling.double(), tol=1e-14, max_iterations=2000).double()
    with torch.no_grad():
        coupling.weight.copy_(math.sqrt(0.9) * torch.eye(2).repeat(1, 10))
        model.bias.copy_(torch.linspace(-0.3, 0.3, 20, dtype=torch.float64))
    return model
