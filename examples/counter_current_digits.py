"""Two networks in opposite directions learn digits together, without back-propagation.

Needs scikit-learn for the images: pip install 'probkernels[report]'
"""

from __future__ import annotations

import torch
from probkernels.local_learning import CounterCurrent
from sklearn.datasets import load_digits
from torch import nn

pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
x = (pixels.float() - pixels.float().mean()) / pixels.float().std()
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1347], order[1347:]

torch.manual_seed(0)
layers: list[nn.Module] = []
for n, m in ((64, 128), (128, 128), (128, 128)):
    layers += [nn.Linear(n, m, bias=False), nn.ELU()]
model = CounterCurrent(nn.Sequential(*layers, nn.Linear(128, 10, bias=False)))
print(model.feedback_net)

optimizers = [torch.optim.SGD(net.parameters(), lr=1.0) for net in (model.forward_net, model.feedback_net)]


def show(epoch: int, losses: list[float]) -> None:
    """Prints the losses of all depths and the accuracy, every five epochs."""
    if (epoch + 1) % 5 == 0:
        right = (model(x[test]).argmax(1) == labels[test]).double().mean()
        print(f"epoch {epoch + 1:2}   losses {' '.join(f'{loss:.3f}' for loss in losses)}   accuracy {right:.4f}")


model.fit(x[train], labels[train], *optimizers, epochs=20, batch_size=128, after=show)
print("cosine with back-propagation's feedback, by layer:", [round(float(c), 2) for c in model.angles()])
print("CKA of both networks, by depth:", [round(float(c), 2) for c in model.cka(x[test], labels[test])])
