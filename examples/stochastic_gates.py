"""Gates with stochastic units switch on a tenth of 100 experts, for digits; those that are off are skipped.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels import nn
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

pixels, digit = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x, y = pixels.float() / 16, digit.long()
train, test = slice(0, 1300), slice(1300, None)

for unit in ("noisy_rectifier", "stochastic_times_smooth", "straight_through_sigmoid"):
    torch.manual_seed(0)
    layer = nn.GatedExperts(64, 100, 10, unit=unit, gater=40, skip=False)  # skipping pays in larger layers
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(15):
        for rows in torch.randperm(1300).split(32):
            loss = cross_entropy(layer(x[rows]), y[rows])
            optimizer.zero_grad()
            (loss + layer.penalty()).backward()
            optimizer.step()
    layer.fit_threshold(x[train])
    accuracy = (layer.eval()(x[test]).argmax(-1) == y[test]).float().mean()
    print(f"{unit:26} accuracy {accuracy:.3f}, {layer.active_fraction:.3f} of the gates on")
