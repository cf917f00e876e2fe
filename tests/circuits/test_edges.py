"""What few people give, but some do: data of any size, circuits without sums, lists in place of tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.circuits import (
    EM,
    Categorical,
    Circuit,
    Gaussian,
    Graph,
    Input,
    Product,
    Sum,
    chow_liu,
    factorized,
    grow,
    hclt,
    prune,
    prune_states,
    rat_spn,
)
from probkernels.codec import PCCodec


def test_data_of_any_size_are_learnt() -> None:
    """Squares of 1e30 overflow in float32; the widths of units do not."""
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    graph = Graph([Input(0, 2, Gaussian()), Sum((0,), units=1)])
    for scale in (1.0, 1e-4, 1e19, 1e30, 1e37):
        circuit = Circuit(graph, data=x * scale)
        history = EM(circuit, batch_size=None).fit(x * scale, epochs=3, progress=False)
        if scale == 1.0:
            expected = history.train
        got = [value + math.log(scale) for value in history.train]
        assert torch.allclose(torch.tensor(got), torch.tensor(expected), atol=1e-3), scale
    with pytest.raises(ValueError, match=r"EM.fit: argument 'x': expected a likelihood in epoch 1, got nan"):
        broken = Circuit(graph, data=x)
        with torch.no_grad():
            broken.inputs[0].location.fill_(math.nan)
        EM(broken).fit(x, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"EM.fit: argument 'x': expected a likelihood in epoch 2, got nan"):
        unprepared = Circuit(graph)  # starts as a standard normal: squares of 1e30 leave the range
        EM(unprepared, batch_size=None).fit(x * 1e30, epochs=2, progress=False)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e10, 1e30])
@pytest.mark.parametrize("pseudocount", [0.0, 0.1])
def test_constant_data_keep_a_width(value: float, pseudocount: float) -> None:
    """A width of zero would be a density of infinity."""
    x = torch.full((50, 2), value)
    x[:, 1] = torch.linspace(-1, 1, 50)
    graph = Graph([Input(0, 2, Gaussian()), Input(1, 2, Gaussian()), Product((0, 1)), Sum((2,), units=1)])
    circuit = Circuit(graph, data=x)
    history = EM(circuit, batch_size=None, pseudocount=pseudocount).fit(x, epochs=4, progress=False)
    assert all(math.isfinite(likelihood) for likelihood in history.train)
    assert all(p.isfinite().all() for p in circuit.parameters())
    assert circuit.inputs[0].location[0].tolist() == pytest.approx([value] * 2, rel=1e-6, abs=1e-6)
    assert (circuit.log_prob(x) > circuit.log_prob(x + torch.tensor([max(abs(value), 1.0), 0.0])) + 5).all()


def test_circuits_without_sums() -> None:
    x = torch.randint(0, 3, (20, 2), generator=torch.Generator().manual_seed(0))
    circuit = Circuit(Graph([Input(0, 1, Categorical(3)), Input(1, 1, Categorical(3)), Product((0, 1))]))
    expected = factorized(x, categories=3, pseudocount=0.0).log_prob(x).mean()
    EM(circuit, batch_size=None, pseudocount=0.0).fit(x, epochs=1, progress=False)
    assert torch.allclose(circuit.log_prob(x).mean(), expected)
    for other in (prune(circuit, x, keep=0.5), prune_states(circuit, x, keep=0.5), grow(circuit, x, fraction=0.5)):
        assert torch.allclose(other.log_prob(x), circuit.log_prob(x))
    codec = PCCodec(circuit)
    items = x.byte().numpy()
    assert (codec.decompress(codec.compress(items, lanes=1)) == items).all()
    assert codec.decompress(codec.compress(items[:0])).shape == (0, 2)


@pytest.mark.parametrize("build", [hclt, chow_liu, factorized, rat_spn])
def test_what_is_no_tensor_is_named(build: Any) -> None:
    rows = [[0, 1], [1, 0]]
    more: dict[str, Any] = {hclt: {"latents": 2}, rat_spn: {"units": 2}}.get(build, {})
    for x in (rows, torch.tensor(rows).numpy(), None, rows * 100_000):
        with pytest.raises(TypeError, match=rf"^{build.__name__}: argument 'x': expected a.* tensor") as caught:
            build(x, **more)
        assert len(str(caught.value)) < 300
    with pytest.raises(TypeError) as caught:
        factorized(torch.tensor(rows)).log_prob(rows * 100_000)
    assert len(str(caught.value)) < 300
