"""A PV-RNN learns a cycle of two fixed symbols and a coin, runs freely, and follows unseen streams online."""

from __future__ import annotations

import torch
from probkernels.sequence import PVRNN, ErrorRegression, PosteriorBank, PVLayer, SoftmaxCode, fit_pvrnn

torch.set_num_threads(1)
torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)


def symbols(sequences: int, cycles: int) -> torch.Tensor:
    """(sequences, 3 * cycles, 1): 1, 0, and a coin that shows 1 in 30 % of cases."""
    coins = (torch.rand(sequences, cycles, generator=generator) < 0.3).float()
    return torch.stack([torch.ones_like(coins), torch.zeros_like(coins), coins], 2).view(sequences, -1, 1)


x = symbols(10, 8)
model = PVRNN([PVLayer(d=10, z=1, tau=2.0, w=0.1)], SoftmaxCode(1, bins=2, low=0.0, high=1.0, sigma=0.05))
bank = PosteriorBank(10, 24, model, lr=0.01)
losses = fit_pvrnn(model, bank, x, steps=1000, lr=0.01, max_norm=5.0, generator=generator)
print(f"loss {losses[0]:.1f} -> {losses[-1]:.2f}")

# One posterior step sets the intention; then the prior runs.
free = model.generate(120, adapt=bank.a[:, :1], generator=generator).code[:, :, 0].argmax(-1)
for run in free[:3]:
    print("free run:", "".join(map(str, run[-36:].tolist())))
cycles = free.view(10, -1, 3)
print(f"rate of 1 at the three places: {[f'{value:.2f}' for value in cycles.float().mean((0, 1)).tolist()]}")

# The weights rest; the vectors A of the last nine steps are fitted as each symbol arrives.
unseen = symbols(20, 8)
online = ErrorRegression(model, streams=20, window=9, iterations=30, lr=0.1, generator=generator)
right = []
for t in range(23):
    guess = online.step(unseen[:, t]).code[:, 0, 0].argmax(-1)
    if t >= 8 and (t + 1) % 3 != 2:
        right.append((guess == unseen[:, t + 1, 0]).float().mean())
print(f"fixed symbols, one step ahead: {torch.stack(right).mean():.3f} right")
