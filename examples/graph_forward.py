"""A graph network learns layer by layer, without back-propagation through layers, and tells what each layer knows."""

from __future__ import annotations

import torch
from probkernels import local_learning as ll

NODES, CLASSES, HIDDEN = 300, 3, 32

generator = torch.Generator().manual_seed(0)
y = torch.arange(NODES) % CLASSES
chance = torch.where(y[:, None] == y, 0.06, 0.006)
linked = (torch.rand(NODES, NODES, generator=generator) < chance).triu(1)
edges = (linked | linked.t()).nonzero().t()
x = 0.6 * torch.nn.functional.one_hot(y, 12) + torch.randn(NODES, 12, generator=generator)
place = torch.randperm(NODES, generator=generator)
train, val, test = place < 150, (place >= 150) & (place < 200), place >= 200

torch.manual_seed(0)
for name, layer in {"GCN": ll.GCN, "SAGE": ll.SAGE, "GAT": ll.GAT}.items():
    layers = [layer(12, HIDDEN), layer(HIDDEN, HIDDEN), layer(HIDDEN, HIDDEN)]
    model = ll.SingleForward(layers, CLASSES)
    model.fit(x, edges, y, train, val, epochs=200, progress=False)
    alone, together = model.layer_accuracy(y, test), model.layer_accuracy(y, test, cumulative=True)
    print(f"{name:5} accuracy of each layer {[f'{value:.2f}' for value in alone]}, with those below {together[-1]:.2f}")

# All layers at once: each reads the layer below it and the one above it, from the time step before.
joint = ll.TopDownForward([ll.GCN(12 + HIDDEN, HIDDEN), ll.GCN(HIDDEN + CLASSES, HIDDEN)], CLASSES)
joint.fit(x, edges, y, train, val, epochs=200, progress=False)
right = joint.predict(test) == y[test]
print(f"top-down, all layers at once: accuracy {right.float().mean():.2f}")
