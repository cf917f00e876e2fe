"""Rows whose later values speak for a state that the coder's products have forgotten: more bits, the same row."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probkernels.circuits import Bernoulli, Circuit, hclt_graph
from probkernels.codec import PCCodec, encode

from tests.circuits.test_hub_queries import extreme, hub, walked

CHILDREN = 120


def keeping(p: float) -> torch.Tensor:
    return torch.tensor([[p, 1 - p], [1 - p, p]]).log()


@pytest.mark.parametrize("ones", [20, 60, 100])
def test_rows_of_a_hub_come_back(ones: int) -> None:
    parents = [-1] + [p for k in range(CHILDREN) for p in (0, 1 + 2 * k)]
    circuit = Circuit(hclt_graph(parents, [Bernoulli()] * len(parents), 2))
    with torch.no_grad():
        for inputs in circuit.inputs:
            inputs.logits.copy_(keeping(0.999).expand_as(inputs.logits))
        for sums in circuit.sums:
            sums.copy_(keeping(0.99).expand_as(sums) if sums.shape[1] > 1 else torch.zeros_like(sums))
    x = np.zeros((50, len(parents)), np.uint8)
    x[:, : 1 + 2 * ones] = 1
    codec = PCCodec(circuit)
    assert np.array_equal(codec.decompress(codec.compress(x, lanes=1)), x)
    coded = sum(map(len, encode(codec.program, torch.from_numpy(x), len(x), 1)))  # a file would hold DEFLATE's bytes
    least = -circuit.log_prob(torch.from_numpy(x[:1]).long()).item() / np.log(2) * len(x)
    assert 0.9 * least < 8 * coded < 6 * least  # what forgetting costs here


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([7, 30, 64]),
    states=st.sampled_from([2, 4]),
    orders=st.sampled_from([1.0, 8.0, 25.0, 35.0]),
)
@settings(max_examples=15, deadline=None)
def test_codes_of_extreme_trees_are_as_long_as_logarithms_say(seed: int, size: int, states: int, orders: float) -> None:
    """Rows of the model cost -log2 p; others hardly more, and less where p is below what a coder's counts can say."""
    rng = random.Random(seed)
    parents = [-1, *(rng.randrange(max(0, k - rng.choice([1, 3, 30])), k) for k in range(1, size))]
    if size == 64:
        parents = hub(63)
    circuit = extreme(parents, states, orders, 0.0, seed)
    codec = PCCodec(circuit)
    drawn = circuit.sample(60, seed=seed).to(torch.uint8)
    others = torch.randint(0, 3, (20, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    for rows, more in ((drawn, 0.02), (others, 0.15)):
        assert np.array_equal(codec.decompress(codec.compress(rows.numpy(), lanes=1)), rows.numpy())
        coded = 8 * sum(map(len, encode(codec.program, rows, len(rows), 1)))
        least = -walked(circuit, rows.long(), torch.zeros_like(rows, dtype=torch.bool)).sum().item() / math.log(2)
        assert coded <= (1 + more) * least + 32
        if rows is drawn:
            assert coded >= 0.98 * least - 8
