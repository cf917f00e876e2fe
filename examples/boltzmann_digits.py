"""A Boltzmann machine that completes digits and names them, and whose mean field always converges.

One machine is trained on random masks. Any pixels may then be observed: it gives probabilities of the others and of the
label. The smallest eigenvalue of I - Phi certifies that each such query has exactly one answer.

    python examples/boltzmann_digits.py
"""

import torch
from probkernels.energy import MonotoneCoupling, MonotoneDBM, random_mask
from sklearn.datasets import load_digits

torch.manual_seed(0)
x, y = load_digits(return_X_y=True)
pixels = (torch.tensor(x) * 4 / 17).long()  # four gray levels
HIDDEN, LABEL, STEPS, BATCH = 16, 80, 60, 64
target = torch.full((len(pixels), 81), -1)  # 64 pixels, 16 hidden groups that have no right state, the label
target[:, :64], target[:, LABEL] = pixels, torch.tensor(y)
train, test = target[:1400], target[1400:]

machine = MonotoneDBM(MonotoneCoupling([4] * (64 + HIDDEN) + [10], rank=256, m=0.05), scale=3.2)
optimizer = torch.optim.Adam(machine.parameters(), lr=1e-2)


def observe(count: int, share: float) -> torch.Tensor:
    """Some pixels, and no other group."""
    observed = torch.zeros(count, 81, dtype=torch.bool)
    observed[:, :64] = random_mask((count, 64), share)
    return observed


for step in range(STEPS):
    batch = train[torch.randint(len(train), (BATCH,))]
    loss = machine.loss(batch, observe(BATCH, 0.4), batch, label=LABEL, gamma=0, balanced=False)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {float(loss.detach()):.3f}, smallest eigenvalue {machine.min_eig():.3f}")

observed = observe(len(test), 0.4)
with torch.no_grad():
    found = machine.infer(test, observed)
completed = machine.complete(test, observed)
missing = ~observed[:, :64]
right = (completed[:, :64] == test[:, :64])[missing].double().mean()
mode = (train[:, :64].mode(0).values == test[:, :64])[missing].double().mean()
named = (completed[:, LABEL] == test[:, LABEL]).double().mean()
print(f"missing pixels: {100 * right:.1f} % right; the most frequent level: {100 * mode:.1f} %")
print(f"labels from 40 % of the pixels: {100 * named:.1f} % right")
print(f"converged after {float(found.iterations.double().mean()):.1f} iterations: {found.converged}")
