"""The fused op of latent trees, and of mixtures of them, gives what the layers give."""

from __future__ import annotations

import pytest
import torch
from probkernels.circuits import Circuit, chow_liu, factorized, hclt, mixture
from torch import Tensor

X = torch.randint(0, 4, (50, 6), generator=torch.Generator().manual_seed(0))
MISSING = torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) < 0.2


def trees(count: int) -> list[Circuit]:
    return [hclt(X[10 * i :], 2 + i, categories=4, seed=i) for i in range(count)]


CIRCUITS = {
    "hclt": (lambda: trees(1)[0], 1),
    "chow_liu": (lambda: chow_liu(X), 1),
    "factorized": (lambda: factorized(X), 1),
    "mixture": (lambda: mixture(trees(3), [0.2, 0.3, 0.5]), 3),
}


@pytest.mark.parametrize("missing", [None, MISSING], ids=["seen", "missing"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_fused_equals_the_layers(name: str, missing: Tensor | None) -> None:
    make, count = CIRCUITS[name]
    circuit = make().double()
    assert len(circuit.trees) == count
    fused_value, fused = circuit.log_prob(X, missing), circuit.flows(X, missing)
    fused_grads = torch.autograd.grad(fused_value.sum(), list(circuit.parameters()))
    circuit.trees = []
    value, flows = circuit.log_prob(X, missing), circuit.flows(X, missing)
    torch.testing.assert_close(fused_value, value)
    torch.testing.assert_close(fused_grads, torch.autograd.grad(value.sum(), list(circuit.parameters())))
    for got, expected in zip(fused.tensors(), flows.tensors(), strict=True):
        torch.testing.assert_close(got, expected)
