"""Deltas: round trips bit by bit, exact ends, linearity, sums and switching, and the models that they refuse."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels._core import files
from probkernels.sparse import _rice
from safetensors.torch import load_file
from torch import nn

from tests.sparse.toy import LR, frozen_equal, train, weights


def base_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)).to(dtype)


RULES: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": 0.03},
    "density": {"density": 0.2},
    "sparse": {"density": 0.02},
    "largest": {"density": 0.1, "select": "largest"},
    "random": {"density": 0.1, "select": "random"},
}
each_rule = pytest.mark.parametrize("rule", RULES)


def tune(rule: str = "threshold", dtype: torch.dtype = torch.float32, start: int = 1) -> pk.sparse.Adapter:
    adapter = pk.sparse.attach(base_model(dtype), **RULES[rule])
    train(adapter.model, torch.optim.AdamW(adapter.parameters(), lr=LR), range(start, start + 4), dtype)
    return adapter


@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_restores_the_tuned_weights_bit_by_bit(rule: str, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = tune(rule, dtype)
    adapter.save(tmp_path / "delta")
    delta = pk.sparse.Delta.load(tmp_path / "delta")
    assert delta.count == adapter.count
    fresh = delta.apply(base_model(dtype))
    frozen_equal(weights(adapter.model), weights(fresh), {})
    again = pk.sparse.attach(base_model(dtype), **RULES[rule])
    again.load(tmp_path / "delta")
    for a, b in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    frozen_equal(weights(adapter.model), weights(again.model), {})


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_dtype_too_narrow_for_the_values_is_refused(wide: torch.dtype, tmp_path: Path) -> None:
    adapter = tune(dtype=wide)
    with torch.no_grad():
        adapter.parameters()[-1][0] = 7e4
    with pytest.raises(ValueError, match=r"argument 'dtype': expected a dtype with the range.*float16 for 7"):
        adapter.save(tmp_path / "delta", torch.float16)
    adapter.save(tmp_path / "delta", torch.bfloat16)
    fresh = pk.sparse.Delta.load(tmp_path / "delta").apply(base_model(wide))
    assert max(p.abs().max().item() for p in fresh.parameters()) == pytest.approx(7e4, rel=2**-8)
    with torch.no_grad():
        adapter.parameters()[-1][0] = torch.inf  # infinity is a value like others
    adapter.save(tmp_path / "delta", torch.float16)


def test_a_file_holds_entries_frozen_by_progress_too(tmp_path: Path) -> None:
    model = base_model()
    optimizer = pk.optim.SaRAAdamW(model, 0.03, lr=LR, progressive_iter=2)
    train(model, optimizer, range(1, 5))
    optimizer.adapter.save(tmp_path / "delta")
    loaded = pk.sparse.Delta.load(tmp_path / "delta")
    assert loaded.count > optimizer.adapter.count
    frozen_equal(weights(model), weights(loaded.apply(base_model())), {})


def test_bfloat16_values_take_half_and_round(tmp_path: Path) -> None:
    adapter = tune()
    adapter.save(tmp_path / "full")
    adapter.save(tmp_path / "half", torch.bfloat16)
    delta = pk.sparse.Delta.load(tmp_path / "half")
    for name, part in delta.parts.items():
        assert torch.equal(part.values, adapter.delta().parts[name].values.bfloat16())
    saved = (tmp_path / "full").stat().st_size - (tmp_path / "half").stat().st_size
    assert saved == 2 * delta.count or abs(saved - 2 * delta.count) < 64
    with pytest.raises(TypeError, match="argument 'dtype'"):
        adapter.save(tmp_path / "ints", torch.int8)


@pytest.mark.parametrize("density", [0.2, 0.058, 0.0058, 0.001])
@pytest.mark.parametrize("select", ["smallest", "random"])
def test_a_file_takes_at_most_six_bytes_an_entry(density: float, select: str, tmp_path: Path) -> None:
    model = nn.Linear(2000, 1000, bias=False)
    adapter = pk.sparse.attach(model, density=density, select=select)
    adapter.save(tmp_path / "delta")
    assert (tmp_path / "delta").stat().st_size <= 6 * adapter.count


def test_a_threshold_file_takes_four_bytes_an_entry(tmp_path: Path) -> None:
    model = nn.Linear(2000, 1000, bias=False)
    adapter = pk.sparse.attach(model, 2e-3)
    adapter.save(tmp_path / "delta")
    assert (tmp_path / "delta").stat().st_size <= 4 * adapter.count + 1000


def test_positions_can_be_stored_beside_a_threshold(tmp_path: Path) -> None:
    adapter = tune()
    adapter.delta().save(tmp_path / "delta", positions=True)
    delta = pk.sparse.Delta.load(tmp_path / "delta")
    assert delta.threshold is None
    frozen_equal(weights(adapter.model), weights(delta.apply(adapter.detach())), {})  # fits the tuned model too
    adapter = tune()
    adapter.save(tmp_path / "found")
    with pytest.raises(ValueError, match="known positions"):
        pk.sparse.Delta.load(tmp_path / "found").save(tmp_path / "again", positions=True)
    with pytest.raises(ValueError, match="without a threshold"):
        tune("density").delta().save(tmp_path / "again", positions=False)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_rice_codes_are_near_the_entropy(density: float) -> None:
    mask = torch.rand(100_000) < density
    positions = mask.nonzero()[:, 0].numpy()
    k = _rice.low_bits(len(positions), len(mask))
    unary, low = _rice.encode(positions, k)
    assert (_rice.decode(unary, low, len(positions), len(mask), k) == positions).all()
    if 0 < density < 0.5:
        entropy = -(torch.tensor([density, 1 - density]) * torch.tensor([density, 1 - density]).log2()).sum() / density
        assert 8 * (len(unary) + len(low)) / len(positions) < 1.05 * entropy.item() + 0.1


# --- scaling, sums, switching ---


def test_alpha_is_exact_at_both_ends_and_linear() -> None:
    adapter = tune()
    base, tuned, delta = weights(base_model()), weights(adapter.model), adapter.delta()
    frozen_equal(base, weights(delta.apply(base_model(), 0.0)), {})
    frozen_equal(tuned, weights(delta.apply(base_model(), 1.0)), {})
    for alpha in (0.3, 1.7, -2.0):
        for name, got in weights(delta.apply(base_model(), alpha)).items():
            exact = base[name].double() + alpha * (tuned[name].double() - base[name].double())
            torch.testing.assert_close(got, exact.float(), rtol=1.2e-7, atol=0)  # one rounding


def test_dense_export_leaves_the_model_alone() -> None:
    adapter, model = tune(), base_model()
    state = adapter.delta().to_dense(model)
    frozen_equal(weights(base_model()), weights(model), {})
    frozen_equal(weights(adapter.model), state, {})


def test_deltas_are_switched_summed_and_taken_back_exactly() -> None:
    one, two = tune("threshold"), tune("density", start=3)
    model = base_model()
    base = weights(model)
    deltas = pk.sparse.Deltas(model)
    deltas.add("one", one.delta())
    deltas.set({"one": 0.5})
    deltas.add("two", two.delta())  # while another one is in the weights
    half = weights(model)
    for name in base:
        torch.testing.assert_close(half[name], (base[name] + weights(one.model)[name]) / 2)
    for alphas, expected in (({"one": 1.0}, one), ({"two": 1.0}, two), ({"one": 1.0, "two": 0.0}, one)):
        deltas.set(alphas)
        frozen_equal(weights(expected.model), weights(model), {})
    deltas.set({"one": 0.6, "two": 0.6})
    tuned = [weights(a.model) for a in (one, two)]
    for name, got in weights(model).items():
        exact = base[name].double() + sum(0.6 * (t[name].double() - base[name].double()) for t in tuned)
        torch.testing.assert_close(got, exact.float(), rtol=1.2e-7, atol=0)
    deltas.remove("one")
    torch.testing.assert_close(weights(model)["2.weight"], torch.lerp(base["2.weight"], tuned[1]["2.weight"], 0.6))
    deltas.set({})
    frozen_equal(base, weights(model), {})


def test_two_deltas_where_only_one_reaches_give_its_exact_weights() -> None:
    adapters = [tune("threshold"), tune("largest")]  # disjoint
    model = base_model()
    deltas = pk.sparse.Deltas(model)
    for name, adapter in zip(("small", "large"), adapters, strict=True):
        deltas.add(name, adapter.delta())
    deltas.set({"small": 1.0, "large": 1.0})
    for adapter in adapters:
        tuned = weights(adapter.model)
        for name, selection in adapter.selections.items():
            assert torch.equal(weights(model)[name][selection.to_mask()], tuned[name][selection.to_mask()])


def test_names_of_deltas_are_checked() -> None:
    deltas = pk.sparse.Deltas(base_model())
    deltas.add("one", tune().delta())
    for wrong in (
        lambda: deltas.set({"two": 1.0}),
        lambda: deltas.remove("two"),
        lambda: deltas.add("one", tune().delta()),
    ):
        with pytest.raises(ValueError, match="argument 'name'"):
            wrong()


def test_a_delta_on_tied_weights() -> None:
    def tied() -> nn.ModuleDict:
        torch.manual_seed(0)
        model = nn.ModuleDict({"table": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
        model["head"].weight = model["table"].weight
        return model

    adapter = pk.sparse.attach(tied(), density=0.3)
    with torch.no_grad():
        adapter.parameters()[0].add_(1)
    delta, model = adapter.delta(), tied()
    state = delta.to_dense(model)
    assert torch.equal(state["head.weight"], adapter.model.state_dict()["table.weight"])
    assert torch.equal(state["table.weight"], state["head.weight"])
    assert torch.equal(delta.apply(model)["head"].weight, state["table.weight"])


# --- models that do not fit ---


def change(model: nn.Module, what: str) -> nn.Module:
    with torch.no_grad():
        if what == "a frozen entry":
            model[2].weight.view(-1)[model[2].weight.abs().argmax()] *= 1.0001
        elif what == "an entry crosses the threshold":
            model[2].weight.view(-1)[model[2].weight.abs().argmax()] = 0.0
    if what == "dtype":
        return model.double()
    if what == "shape":
        model[4] = nn.Linear(40, 4)
    elif what == "a layer less":
        del model[4]
    return model


@pytest.mark.parametrize("what", ["a frozen entry", "an entry crosses the threshold", "dtype", "shape", "a layer less"])
@pytest.mark.parametrize("rule", ["threshold", "density"])
def test_a_changed_base_raises_and_stays_as_it_was(what: str, rule: str, tmp_path: Path) -> None:
    tune(rule).save(tmp_path / "delta")
    delta = pk.sparse.Delta.load(tmp_path / "delta")
    model = change(base_model(), what)
    before = weights(model)
    for wrong in (
        lambda: delta.apply(model),
        lambda: delta.to_dense(model),
        lambda: pk.sparse.Deltas(model).add("x", delta),
    ):
        with pytest.raises(pk.ModelMismatchError, match=r"Delta: "):
            wrong()
    frozen_equal(before, weights(model), {})
    with pytest.raises(pk.ModelMismatchError):
        pk.sparse.attach(model, **RULES[rule]).load(tmp_path / "delta")


def test_another_selection_is_refused(tmp_path: Path) -> None:
    tune("threshold").save(tmp_path / "delta")
    for settings in ({"threshold": 0.031}, {"density": 0.3}):
        with pytest.raises(pk.ModelMismatchError, match="another base model or selection"):
            pk.sparse.attach(base_model(), **settings).load(tmp_path / "delta")


def test_a_model_with_an_adapter_is_refused() -> None:
    delta = tune().delta()
    for wrong in (delta.apply, pk.sparse.Deltas):
        with pytest.raises(ValueError, match="detach"):
            wrong(tune().model)


# --- writing ---


@pytest.mark.parametrize("moment", ["fsync", "fchmod", "replace"])
def test_a_killed_writer_leaves_the_old_file(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "delta"
    files.write(path, {"x": torch.zeros(3)}, {"a": "b"})
    old = path.read_bytes()
    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(os, moment, lambda *_: os._exit(7))
            files.write(path, {"x": torch.ones(1000)}, {})
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_bytes() == old


def test_a_failed_writer_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write(tmp_path / "delta", {"x": torch.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_the_file(tmp_path: Path) -> None:
    tune().save(tmp_path / "delta")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "delta").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_format_is_safetensors(tmp_path: Path) -> None:
    adapter = tune("density")
    adapter.save(tmp_path / "delta")
    theirs = load_file(tmp_path / "delta")
    ours, _ = files.read(tmp_path / "delta")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


# --- state of training ---


def test_adapter_state_goes_on_from_either_base_or_tuned_weights() -> None:
    adapter = tune()
    with torch.no_grad():
        adapter.parameters()[0][:5] = 1
    adapter.progress()
    state = copy.deepcopy(adapter.state_dict())
    for start in (base_model(), base_model()):
        again = pk.sparse.attach(start, 0.03)
        again.load_state_dict(state)
        frozen_equal(weights(adapter.model), weights(again.model), {})
        assert again.count == adapter.count
        again.merge(0.0)
        frozen_equal(weights(base_model()), weights(again.model), {})


def test_adapter_state_of_another_shape_or_target_is_refused() -> None:
    state = tune().state_dict()
    with pytest.raises(pk.ModelMismatchError, match="differ, at"):
        pk.sparse.attach(base_model(), 0.03, target="*.weight").load_state_dict(state)
    model = base_model()
    model[4] = nn.Linear(40, 4)
    with pytest.raises(pk.ModelMismatchError, match="another shape"):
        pk.sparse.attach(model, 0.03).load_state_dict(state)


@pytest.mark.parametrize(("alpha", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)])
def test_an_alpha_that_would_fill_the_weights_is_refused(alpha: Any, error: type[Exception]) -> None:
    base = nn.Linear(8, 8)
    tuned = copy.deepcopy(base)
    adapter = pk.sparse.attach(tuned, density=0.5)
    with torch.no_grad():
        adapter.parameters()[0].add_(1)
    delta, deltas, before = adapter.delta(), pk.sparse.Deltas(base), tuned.weight.detach().clone()
    deltas.add("one", delta)
    for act in (
        lambda: adapter.merge(alpha),
        lambda: delta.apply(base, alpha),
        lambda: delta.to_dense(base, alpha),
        lambda: deltas.set({"one": alpha}),
        lambda: pk.sparse.import_shira({}, base, scaling=alpha),
    ):
        with pytest.raises(error, match=r"argument '(alpha|alphas\['one'\]|scaling)': expected a"):
            act()
    assert torch.equal(tuned.weight, before) and base.weight.isfinite().all()
