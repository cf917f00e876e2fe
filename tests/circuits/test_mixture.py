"""Mixtures: the weighted mean of their parts, and trained as one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from probkernels.circuits import EM, Categorical, Circuit, Gaussian, factorized_graph, hclt_graph, mixture

from tests.circuits.models import MIXED, data, holes, random_graph


def test_a_mixture_is_the_mean_of_its_parts() -> None:
    x = data(MIXED, 30, 0)
    missing = holes(x, 0)
    parts = [Circuit(random_graph(MIXED, seed), data=x, seed=seed).double() for seed in range(3)]
    for weights, share in (
        (None, [1 / 3] * 3),
        ([2, 1, 1], [0.5, 0.25, 0.25]),
        (torch.tensor([1.0, 8, 1]), [0.1, 0.8, 0.1]),
    ):
        mixed = mixture(parts, weights).log_prob(x, missing)
        each = torch.stack([part.log_prob(x, missing).exp() for part in parts])
        expected = (torch.tensor(share, dtype=torch.float64)[:, None] * each).sum(0).log()
        torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-6)


def test_a_mixture_learns_and_leaves_its_parts_alone() -> None:
    x = torch.cat([torch.zeros(60, 4, dtype=torch.long), torch.full((20, 4), 2)])
    x[::7, 1] = 1
    parts = [Circuit(factorized_graph([Categorical(3)] * 4), seed=seed) for seed in range(2)]
    before = parts[0].log_prob(x).detach()
    mixed = mixture(parts)
    history = EM(mixed, batch_size=None, pseudocount=0.0).fit(x, epochs=40, progress=False)
    assert all(b >= a - 1e-5 for a, b in pairwise(history.train))
    weights = min(mixed.weights(), key=lambda w: -w.shape[2]).flatten().sort().values
    assert weights.tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    assert torch.equal(parts[0].log_prob(x).detach(), before)


def test_wrong_input_is_named() -> None:
    two, three = (Circuit(factorized_graph([Categorical(2)] * n)) for n in (2, 3))
    with pytest.raises(ValueError, match="at least one circuit"):
        mixture([])
    with pytest.raises(TypeError, match=r"circuits\[1\]"):
        mixture([two, None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"circuits\[1\].*2 variables"):
        mixture([two, three])
    with pytest.raises(ValueError, match="one kind"):
        mixture([two, Circuit(factorized_graph([Categorical(2), Gaussian()]))])
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="2 positive numbers"):
            mixture([two, Circuit(hclt_graph([-1, 0], [Categorical(2)] * 2, 2))], weights)
