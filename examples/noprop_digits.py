"""NoProp: ten blocks learn digits, each alone, without back-propagation through the others.

Every block learns to denoise the vector of the label at its own noise level. Its input is drawn from the label, so it
needs no other block; all ten train as one batched product. To classify, the blocks turn noise into a label one after
the other. Back-propagation trains a network of the size of one block for comparison.

    python examples/noprop_digits.py
"""

import torch
from probkernels.local_learning import NoPropDT, fit_noprop
from probkernels.training import minimize
from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    """block(z, x): from a noisy vector of the label and an image to logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.of_x = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width))
        self.of_z = nn.Sequential(nn.Linear(10, width), nn.BatchNorm1d(width), nn.ReLU())
        self.end = nn.Sequential(nn.Linear(2 * width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.end(torch.cat([self.of_x(x), self.of_z(z)], 1))


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x, y = (torch.from_numpy(digits.data) / 16)[order].float(), torch.from_numpy(digits.target)[order]
    train, test = slice(0, 1350), slice(1350, None)

    model = NoPropDT([Block() for _ in range(10)], num_classes=10)
    generator = torch.Generator().manual_seed(0)
    losses = fit_noprop(model, x[train], y[train], epochs=30, generator=generator, progress=False)
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} in the end")
    for noise in (True, False):
        right = (model.predict(x[test], noise=noise, generator=generator) == y[test]).float().mean()
        print(f"NoProp, noise={noise}: {100 * right:.1f} % right")

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def loss(n: int) -> torch.Tensor:
        rows = torch.randint(1350, (128,), generator=generator)
        return nn.functional.cross_entropy(net(x[rows]), y[rows])

    minimize(loss, optimizer, 330)
    right = (net(x[test]).argmax(1) == y[test]).float().mean()
    print(f"back-propagation: {100 * right:.1f} % right")


if __name__ == "__main__":
    main()
