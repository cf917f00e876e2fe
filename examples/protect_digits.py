"""An owner moves the pixels of images before publishing them, so that networks trained on them learn less.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels import uncertainty as un
from sklearn.datasets import load_digits
from torch import Tensor, nn

torch.set_num_threads(1)
pixels, digit = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
order = torch.randperm(len(digit), generator=torch.Generator().manual_seed(0))
x, y = pixels[order].float() / 16, digit[order]
x, y, inputs, classes = x[:1300], y[:1300], x[1300:], y[1300:]


def train(images: Tensor, labels: Tensor) -> nn.Sequential:
    """A small network, trained from scratch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(30):
        for rows in torch.randperm(len(images)).split(256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    return net


def accuracy(images: Tensor, labels: Tensor) -> float:
    """Accuracy on clean images of a network that is trained on some images."""
    net = train(images, labels)
    return (net(inputs).argmax(1) == classes).double().mean().item()


print(f"trained on clean images       accuracy {accuracy(x, y):.3f}")
for eps in (0.25, 0.5):  # of the range of a pixel: changes that are visible
    ascent = un.BayesErrorAscent(lambda images, labels: nn.Flatten(), eps, sigma=0.5, outer=1, inner=60)
    protected = ascent.protect(x, y)  # raises the Bayes error of the pixels themselves
    before, after = (un.kernel_bayes_error(images, y, sigma=0.5).item() for images in (x, protected))
    print(f"eps {eps:<4}: Bayes error {before:.3f} -> {after:.3f}, accuracy {accuracy(protected, y):.3f}", end=", ")
    mixed, _ = un.mix(x, protected, 0.5, torch.Generator().manual_seed(0))
    print(f"with half of the images clean {accuracy(mixed, y):.3f}")
