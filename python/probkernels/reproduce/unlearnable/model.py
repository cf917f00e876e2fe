"""The data and the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..harness import datasets

EPOCHS, BATCH = 40, 256
Split = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Split:
    """Images in [0, 1] and labels to train on, and others to judge by; every class gives a quarter to the latter."""
    datasets.require_sklearn()
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    a, b, c, d = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=0)
    return torch.tensor(a).float(), torch.tensor(c), torch.tensor(b).float(), torch.tensor(d)


def train(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    """Trains a network from scratch. Without its last layer it gives features."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose class is found."""
    return (net(x).argmax(1) == y).double().mean().item()
