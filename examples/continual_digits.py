"""Digits come two classes at a time: an encoder with prototypes and a small memory still knows all ten at the end.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels import bnn
from sklearn.datasets import load_digits
from torch import nn

pixels, digit = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x = pixels.float() / 8 - 1
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1300], order[1300:]

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
head = bnn.ProtoHead(128)  # no number of classes: the head grows
memory = bnn.ReplayMemory(200, "class_balanced")
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
for first in range(0, 10, 2):
    own = train[(digit[train] == first) | (digit[train] == first + 1)]
    head.grow(first + 2)
    for _ in range(10):
        for rows in own[torch.randperm(len(own))].split(32):
            old = memory.sample(32) if len(memory) else None
            images, labels = x[rows], digit[rows]
            if old is not None:
                images, labels = torch.cat([images, old.x]), torch.cat([labels, old.y])
            z = encoder(images)
            half = len(z) // 2  # prototypes come from one half of a batch, and classify the other
            mixed = torch.randperm(len(z))
            support, query = mixed[:half], mixed[half:]
            query = query[torch.isin(labels[query], labels[support])]
            optimizer.zero_grad()
            head.loss(z[query], labels[query], support=(z[support], labels[support]), seen=True).backward()
            optimizer.step()
    memory.add(x[own], digit[own])
    kept = memory.contents()
    with torch.no_grad():
        head.refresh(encoder(kept.x), kept.y)  # what the encoder of now makes of the memory
        known = test[digit[test] < first + 2]
        right = head.predictive(encoder(x[known])).argmax(1) == digit[known]
    print(f"digits 0 to {first + 1}: accuracy {right.float().mean():.3f}, memory {torch.bincount(kept.y).tolist()}")
