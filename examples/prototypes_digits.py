"""A network explains digits by prototypes that it draws, and tells which digits it never learned.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels import uncertainty as un
from sklearn.datasets import load_digits
from torch import Tensor, nn

pixels, digit = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x = pixels.float() / 8 - 1
known, new = (digit < 8).nonzero()[:, 0], (digit >= 8).nonzero()[:, 0]  # nobody shows the network an 8 or a 9
train, test = known[:1000], known[1000:]

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 10))
decoder = nn.Sequential(nn.Linear(10, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.Tanh())
model = un.ProbPSENN(encoder, un.GaussianPrototypes(8, 10), decoder)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(60):
    if epoch == 30:  # the first 30 epochs learn to reconstruct
        model.prototypes.fit_(encoder(x[train]).detach(), digit[train])
    for rows in train[torch.randperm(len(train))].split(128):
        optimizer.zero_grad()
        out = model(x[rows], samples=10)
        only = {} if epoch >= 30 else {"likelihood": 0.0, "density": 0.0}
        model.loss(out, x[rows], digit[rows], **only).backward()
        optimizer.step()
model.remember_(x[train], digit[train])

right = model(x[test], samples=100).mean_probs.argmax(1) == digit[test]
print(f"accuracy on digits 0 to 7: {right.float().mean():.3f}")
scores = model.uncertainty(x[torch.cat([test, new])], samples=100)
for name, score in scores.items():
    means = score[: len(test)].mean(), score[len(test) :].mean()
    auroc = un.auroc(score, torch.arange(len(score)) >= len(test))
    print(f"{name:15} known digits {means[0]:.3f}   new digits {means[1]:.3f}   AUROC {auroc:.3f}")


def text(images: Tensor) -> str:
    """Images (n, 64) side by side."""
    shades = ((images.view(-1, 8, 8) + 1) * 2).round().long().clamp(0, 4)
    return "\n".join("  ".join("".join(" .+*#"[v] for v in row) for row in rows) for rows in shades.unbind(1))


shown = model.explain(x[test[:1]], samples=5)
print(f"\na {digit[test[0]]}, the center of the prototype of {shown.classes[0]}, and five draws of it:\n")
print(text(torch.cat([x[test[:1]], shown.center, shown.gallery[0]])))
