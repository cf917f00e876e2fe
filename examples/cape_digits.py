"""A network estimates the probability of an outcome that is drawn only once, and goes on learning with CaPE.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels import uncertainty as un
from sklearn.datasets import load_digits
from torch import Tensor, nn

generator = torch.Generator().manual_seed(0)
pixels, digit = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
truth = 0.35 + (digit + 0.5) / 30  # the probability of the outcome; nobody sees it
x, y = pixels.float() / 16, torch.rand(len(digit), generator=generator) < truth
parts = torch.randperm(len(x), generator=generator).tensor_split([1000, 1300])
train, validation, (inputs, outcomes) = ((x[rows], y[rows]) for rows in parts)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))


def show(name: str, state: dict[str, Tensor]) -> None:
    """Prints how far a state of the network is from the truth, and from the outcomes."""
    net.load_state_dict(state)
    with torch.no_grad():
        probs = net(inputs)[:, 0].sigmoid()
    figures = un.mse_p(probs, truth[parts[2]]), un.brier(probs, outcomes), un.ece(probs, outcomes, equal="mass")
    print(f"{name:30} MSE_p {figures[0]:.4f}   Brier {figures[1]:.4f}   ECE {figures[2]:.4f}")


def train_with(method: un.CaPE, epochs: int, lr: float) -> dict[str, Tensor]:
    """Trains the network, which keeps its best state, and returns the last one."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    return method.fit(net, optimizer, train, validation, epochs=epochs, batch_size=64, scheduler=None).last


outcomes_only = un.CaPE("bin", bins=1000)  # a bin for each sample: the targets are the outcomes
last = train_with(outcomes_only, 30, 0.05)
early = {name: value.clone() for name, value in net.state_dict().items()}
show("outcomes only, all epochs", last)
show("outcomes only, early stop", early)
for name, method in (("50 more epochs on outcomes", outcomes_only), ("50 more epochs of CaPE", un.CaPE("bin", bins=5))):
    net.load_state_dict(early)
    show(name, train_with(method, 50, 0.02))
