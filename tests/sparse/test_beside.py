"""State beside selected entries - running statistics, parameters trained along - is part of what was learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn

from tests.sparse.toy import frozen_equal, weights

NORMS: dict[str, Any] = {"power norm": pk.nn.PowerNorm, "batch norm": nn.BatchNorm1d}
each_norm = pytest.mark.parametrize("norm", NORMS)


def base_model(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), NORMS[norm](32), nn.Linear(32, 4))


X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)) * 3


def tune(norm: str, steps: int = 10, shift: float = 0.0, **settings: Any) -> pk.sparse.Adapter:
    model = base_model(norm)
    adapter = pk.sparse.attach(model, **{"density": 0.3, **settings})
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X + shift) - 1).square().mean().backward()
        optimizer.step()
    model.eval()
    return adapter


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(X)


@each_norm
def test_a_delta_brings_running_statistics(norm: str, tmp_path: Path) -> None:
    adapter = tune(norm)
    adapter.save(tmp_path / "delta")
    delta = pk.sparse.Delta.load(tmp_path / "delta")
    assert delta.beside
    fresh = delta.apply(base_model(norm))
    assert torch.equal(output(fresh), output(adapter.model))
    frozen_equal(weights(adapter.model), weights(fresh), {})
    frozen_equal(weights(adapter.model), delta.to_dense(base_model(norm)), {})
    frozen_equal(weights(base_model(norm)), weights(delta.apply(base_model(norm), 0.0)), {})
    again = pk.sparse.attach(base_model(norm), density=0.3)
    again.load(tmp_path / "delta")
    frozen_equal(weights(adapter.model), weights(again.model), {})


@each_norm
def test_merging_reaches_statistics_and_zero_is_the_base(norm: str) -> None:
    adapter = tune(norm)
    tuned, base = weights(adapter.model), weights(base_model(norm))
    assert torch.equal(output(adapter.merge(0.0)), output(base_model(norm)))
    frozen_equal(base, weights(adapter.model), {})
    half = weights(adapter.merge(0.5))
    for name, t in half.items():
        if t.is_floating_point():
            torch.testing.assert_close(t, (base[name].double() + tuned[name].double()).div(2).float())
    assert adapter.delta().beside.keys()  # of the tuned model, while it is hidden
    variance = next(n for n in tuned if "running_psi2" in n or "running_var" in n)
    assert torch.equal(weights(adapter.merge(30.0))[variance], tuned[variance])  # never extrapolated
    assert torch.equal(weights(adapter.merge(-30.0))[variance], base[variance])
    frozen_equal(tuned, weights(adapter.unmerge()), {})


@each_norm
def test_deltas_switch_statistics_too(norm: str) -> None:
    one, two, model = tune(norm), tune(norm, shift=2.0), base_model(norm)
    base = weights(model)
    deltas = pk.sparse.Deltas(model)
    deltas.add("one", one.delta())
    deltas.set({"one": 0.3})
    deltas.add("two", two.delta())
    for name, adapter in (("one", one), ("two", two)):
        deltas.set({name: 1.0})
        frozen_equal(weights(adapter.model), weights(model), {})
    deltas.set({"one": 1.0, "two": 1.0})
    for name in one.delta().beside:
        if base[name].is_floating_point():
            mean = (weights(one.model)[name].double() + weights(two.model)[name].double()) / 2
            torch.testing.assert_close(weights(model)[name], mean.float())
    deltas.remove("two")
    frozen_equal(weights(one.model), weights(model), {})
    deltas.set({})
    frozen_equal(base, weights(model), {})


@each_norm
def test_a_checkpoint_of_training_holds_both_ends(norm: str) -> None:
    adapter = tune(norm)
    for start in (base_model(norm), copy.deepcopy(adapter.model)):
        if start is not None and any(n.endswith("_values") for n, _ in start.named_parameters()):
            pk.sparse.Adapter.of(start).detach()
        again = pk.sparse.attach(start, density=0.3)
        again.load_state_dict(copy.deepcopy(adapter.state_dict()))
        frozen_equal(weights(adapter.model), weights(again.model), {})
        assert again.delta().beside.keys() == adapter.delta().beside.keys()
        frozen_equal(weights(base_model(norm)), weights(again.merge(0.0)), {})


def test_saraadamw_checkpoints_hold_statistics() -> None:
    model = base_model("batch norm")
    optimizer = pk.optim.SaRAAdamW(model, density=0.3, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    fresh = base_model("batch norm")
    resumed = pk.optim.SaRAAdamW(fresh, density=0.3, lr=1e-2)
    resumed.load_state_dict(optimizer.state_dict())
    frozen_equal(weights(model), weights(fresh), {})
    assert resumed.adapter.delta().beside.keys() == optimizer.adapter.delta().beside.keys() != set()


def test_parameters_trained_along_are_part_of_a_delta() -> None:
    adapter = tune("batch norm", target=["*.weight"])
    delta = adapter.delta()
    assert {"0.bias", "1.bias", "2.bias"} <= delta.beside.keys()
    frozen_equal(weights(adapter.model), weights(delta.apply(base_model("batch norm"))), {})
    deltas = pk.sparse.Deltas(base_model("batch norm"))
    deltas.add("one", delta)
    deltas.set({"one": 1.0})
    frozen_equal(weights(adapter.model), weights(deltas.model), {})
    deltas.set({})
    frozen_equal(weights(base_model("batch norm")), weights(deltas.model), {})
    with pytest.raises(ValueError, match=r"argument 'alpha'.*'0\.bias'"):
        adapter.merge(0.5)


def test_nothing_beside_is_stored_where_nothing_changed(tmp_path: Path) -> None:
    adapter = pk.sparse.attach(base_model("batch norm").eval(), density=0.3)
    adapter.model(X).sum().backward()
    assert adapter.delta().beside == {}


def test_statistics_of_another_shape_or_dtype_are_refused() -> None:
    delta = tune("batch norm").delta()
    other = base_model("batch norm")
    other[1].running_var = other[1].running_var.double()
    with pytest.raises(pk.ModelMismatchError, match="running_var"):
        delta.apply(other)
    bare = base_model("batch norm")
    bare[1] = nn.BatchNorm1d(32, track_running_stats=False)
    before = weights(bare)
    with pytest.raises(pk.ModelMismatchError, match=r"1\.running_mean|1\.running_var|1\.num_batches"):
        delta.apply(bare)
    frozen_equal(before, weights(bare), {})


# --- Deltas on a base that was replaced ---


@pytest.mark.parametrize("unselected", [False, True])
@pytest.mark.parametrize("alphas", [{}, {"style": 1.0}, {"style": 0.4}])
def test_a_replaced_base_is_noticed(alphas: dict[str, float], unselected: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 32)
    tuned = copy.deepcopy(base)
    adapter = pk.sparse.attach(tuned, density=0.2)
    with torch.no_grad():
        adapter.parameters()[0].add_(1)
    deltas = pk.sparse.Deltas(base)
    deltas.add("style", adapter.delta())
    deltas.set(alphas)
    other = nn.Linear(64, 32)
    if unselected:  # other weights, of which the entries that the delta trained are the same
        with torch.no_grad():
            for name, selection in adapter.selections.items():
                selection.scatter_(other.get_parameter(name), selection.gather(base.get_parameter(name).detach()))
    base.load_state_dict(other.state_dict())
    for wrong in ({}, {"style": 1.0}):
        with pytest.raises(pk.ModelMismatchError, match="was changed since it was last set"):
            deltas.set(wrong)
    assert torch.equal(base.weight, other.weight)
