"""Proposes sequences that score higher than all given ones, without scoring a new one: ROOT on an Ehrlich function."""

from __future__ import annotations

import torch
from probkernels.blackbox import ROOT, Ehrlich

torch.set_num_threads(1)
f = Ehrlich(letters=4, length=12, motifs=2, motif_length=4)  # stands for the lab; its maximum is 1
X = f.random_designs(10_000, torch.Generator().manual_seed(0))
y = f(X)
X, y = X[y < 0.4][:5000], y[y < 0.4][:5000]  # only poor sequences are known
print(f"{len(X)} sequences, the best scores {y.max():.3f}, {(y == y.max()).sum()} of them do")

root = ROOT(letters=4, epochs=2, functions=4, points=800, starts=256, width=256)
root.fit(X, y, progress=True)
print(f"loss of the bridge {root.losses[0]:.3f} -> {root.losses[-1]:.3f}")

proposals = root.propose(128, steps=50)
scores = f(proposals)
print(f"128 proposals: the best scores {scores.max():.3f}, {(scores > y.max()).sum()} beat all given sequences")
print(f"{f.is_feasible(proposals).float().mean():.1%} are feasible: the data have no infeasible one to learn from")
