"""Modules' own ways to their parameters on an adapted model: getting, tying, resizing; and batches of nothing."""

from __future__ import annotations

import probkernels as pk
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:probkernels.sparse.attach")


def tied() -> nn.ModuleDict:
    torch.manual_seed(0)
    model = nn.ModuleDict({"table": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["table"].weight
    return model


def test_tying_again_changes_nothing_and_other_ties_are_refused() -> None:
    model = tied()
    pk.sparse.attach(model, density=0.3)
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            model["head"].weight = model["table"].weight
    assert model["head"]._parameters["weight"] is model["table"]._parameters["weight"]
    loose = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    pk.sparse.attach(loose, density=0.3)
    with pytest.raises(ValueError, match="detach"):
        loose[0].weight = loose[1].weight


def test_get_parameter() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    pk.sparse.attach(model, density=0.4)
    found = model.get_parameter("0.weight")
    assert isinstance(found, nn.Parameter)
    assert found.data_ptr() == model[0]._parameters["weight"].data_ptr()
    assert isinstance(model[0].get_parameter("weight"), nn.Parameter)


def test_a_resized_weight_is_refused_at_its_next_use() -> None:
    table = nn.Embedding(20, 8)
    pk.sparse.attach(table, density=0.3)
    table._parameters["weight"].data = torch.randn(24, 8)
    with pytest.raises(ValueError, match=r"argument 'weight'.*\(20, 8\)"):
        table(torch.tensor([21]))
    other = nn.Embedding(20, 8)
    pk.sparse.attach(other, density=0.3)
    other.weight.data = torch.randn(24, 8)  # as resize_token_embeddings() does
    with pytest.raises(ValueError, match=r"argument 'weight'.*\(20, 8\)"):
        other(torch.tensor([3]))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.8])
def test_an_adapted_convolution_takes_an_empty_batch(density: float) -> None:
    model = nn.Conv2d(3, 4, 3)
    adapter = pk.sparse.attach(model, density=density)
    y = model(torch.randn(0, 3, 8, 8))
    assert y.shape == (0, 4, 6, 6)
    y.sum().backward()
    assert not any(p.grad.any() for p in adapter.parameters() if p.grad is not None)
