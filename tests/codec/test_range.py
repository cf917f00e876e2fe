"""Rows whose later values speak for a state that the coder's products have forgotten: more bits, the same row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probkernels.circuits import Bernoulli, Circuit, hclt_graph
from probkernels.codec import PCCodec, encode

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
