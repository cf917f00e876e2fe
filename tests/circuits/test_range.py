"""Fused trees in float32 on data far from what they were trained on: likelihoods, conditionals and flows are those of
float64 by layers, which compute with logarithms."""

from __future__ import annotations

import copy

import pytest
import torch
from probkernels.circuits import EM, Bernoulli, Circuit, chow_liu, hclt, hclt_graph
from torch import Tensor


def by_layers(circuit: Circuit, x: Tensor) -> Tensor:
    """log p in float64 without the fused op."""
    wide = copy.deepcopy(circuit).double()
    evidence = wide.evidence(x, None)
    return wide.upward([layer(evidence) for layer in wide.inputs], wide.weights())[-1][0, 0].detach()


def assert_right(circuit: Circuit, x: Tensor) -> None:
    with torch.no_grad():
        got, expected = circuit.log_prob(x).double(), by_layers(circuit, x)
    assert expected.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_chow_liu_of_three_rows() -> None:
    torch.manual_seed(0)
    assert_right(chow_liu(torch.randint(0, 2, (3, 1000))), torch.randint(0, 2, (50, 1000)))


def test_chow_liu_of_few_images_with_a_common_background() -> None:
    """Pixels that never change hang on one hub, as in MNIST's trees; other images differ there."""
    torch.manual_seed(0)
    train = torch.zeros(8, 400, dtype=torch.int64)
    train[:, ::4] = torch.randint(0, 2, (8, 100))
    assert_right(chow_liu(train), torch.randint(0, 2, (50, 400)))


def test_a_trained_hub_and_its_conditional() -> None:
    torch.manual_seed(0)
    children, n = 60, 500
    parents = [-1] + [p for k in range(children) for p in (0, 1 + 2 * k)]
    hub = torch.randint(0, 2, (n, 1))
    inner = torch.where(torch.rand(n, children) < 0.01, 1 - hub, hub)
    x = torch.empty(n, 1 + 2 * children, dtype=torch.int64)
    x[:, :1], x[:, 1::2] = hub, inner
    x[:, 2::2] = torch.where(torch.rand(n, children) < 0.002, 1 - inner, inner)
    circuit = Circuit(hclt_graph(parents, [Bernoulli()] * x.shape[1], 2), seed=1)
    EM(circuit, batch_size=None, pseudocount=0.1).fit(x, epochs=25, progress=False)
    wide = copy.deepcopy(circuit).double()
    for inverted in (20, 28, 30):
        other = x[:40].clone()
        start = 1 + 2 * (children - inverted)
        other[:, start:] = 1 - other[:, start:]
        assert_right(circuit, other)
        given, expected = (c.conditional(other, targets=[0]) for c in (circuit, wide))
        torch.testing.assert_close(given.double(), expected, rtol=1e-3, atol=1e-3)
        shares, truth = (c.flows(other).sums[-1] for c in (circuit, wide))
        torch.testing.assert_close(shares.double(), truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pseudocount", [0.1, 1e-6])
def test_hclt_of_five_images(pseudocount: float) -> None:
    torch.manual_seed(0)
    train = (torch.rand(5, 200) < torch.rand(200)).long()
    train[:, ::2] = 0
    circuit = hclt(train, 4)
    EM(circuit, batch_size=None, pseudocount=pseudocount).fit(train, epochs=20, progress=False)
    assert_right(circuit, torch.randint(0, 2, (40, 200)))


@pytest.mark.parametrize("seed", [0, 1])
def test_hclt_of_five_images_with_a_background(seed: int) -> None:
    """Images of another place: a kernel with one exponent an image was 40 nats off."""
    generator = torch.Generator().manual_seed(seed)
    train, other = torch.zeros(2, 20, 300, dtype=torch.int64)
    train[:, :40], other[:, 260:] = torch.randint(0, 2, (2, 20, 40), generator=generator)
    circuit = hclt(train[:5], 4)
    EM(circuit, batch_size=None, pseudocount=1e-3).fit(train[:5], epochs=40, progress=False)
    assert_right(circuit, torch.cat([train, other]))
