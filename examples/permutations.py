"""Networks that learn a permutation from its basis vectors: one is wrong, the mean of many is exact."""

from __future__ import annotations

import torch
from probkernels.kernel_methods import PermutationEnsemble, permutation_moments, round_sign, success_probability

K, ORDER = 5, [3, 1, 4, 0, 2]
pairs = torch.combinations(torch.arange(K))
x = torch.zeros(len(pairs), K, dtype=torch.long).scatter(1, pairs, 1)  # all inputs with two ones; none was trained on
truth = x[:, ORDER]

for parameterization in ("ntk", "standard"):
    generator = torch.Generator().manual_seed(0)
    ensemble = PermutationEnsemble(K, 1024, 300, parameterization, generator=generator).fit(ORDER)
    with torch.no_grad():
        outputs = ensemble.each(x)  # (300, 10, 5)
    expected = permutation_moments(K, 2, ensemble.kind)
    found = outputs[:, truth.bool()].mean(), outputs[:, ~truth.bool()].mean(), outputs.var(0).mean()
    for name, value, closed in zip(expected._fields, found, expected, strict=True):
        print(f"{parameterization:9} {name:10} {value:8.4f}, of infinitely wide networks {closed:8.4f}")
    for count in (1, 10, 100):
        means = outputs.unflatten(0, (-1, count)).mean(1)  # of disjoint groups of networks
        exact = (round_sign(means, 0.0) == truth).all(-1).double().mean()
        theory = success_probability(K, 2, count, ensemble.kind)
        print(f"{parameterization:9} mean of {count:3}: exact on a share of {exact:.3f}, probability {theory:.3f}")
