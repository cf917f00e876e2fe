"""Which entries are chosen, what attach refuses, and what an attached model still is."""

from __future__ import annotations

import math
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import nn

from tests.sparse.toy import LR, THETA, frozen_equal, loss_of, net, train, weights

attach = pk.sparse.attach


def two() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 30))
    with torch.no_grad():
        model[2].weight.mul_(3)
    return model


# --- which entries ---


@pytest.mark.parametrize("select", ["smallest", "largest"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("density", [0.01, 0.2, 1.0])
def test_a_density_takes_the_extreme_entries(select: str, scope: str, density: float) -> None:
    model = two()
    original = weights(model)
    selections = attach(model, density=density, select=select, scope=scope).selections
    groups = [list(original)] if scope == "global" else [[name] for name in original]
    for group in groups:
        inside = torch.cat([original[n][selections[n].to_mask()].abs() for n in group])
        outside = torch.cat([original[n][~selections[n].to_mask()].abs() for n in group])
        assert inside.numel() == round(density * (inside.numel() + outside.numel()))
        if outside.numel() and inside.numel():
            assert inside.max() <= outside.min() if select == "smallest" else inside.min() >= outside.max()


def test_ties_are_taken_in_order_up_to_the_density() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.LayerNorm(10))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
        model[0].weight[3] = 0.1
    selections = attach(model, density=0.2).selections
    assert [s.count for s in selections.values()] == [26, 0, 0, 0]
    assert selections["0.weight"].to_index().tolist() == [*range(16), *range(30, 40)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_density_is_met_in_every_dtype(dtype: torch.dtype) -> None:
    assert attach(two().to(dtype), density=0.1).count == round(0.1 * 4580)
    assert attach(two().to(dtype), density=0.1, select="largest").count == round(0.1 * 4580)


def test_random_selection_depends_on_the_seed_alone() -> None:
    picks = [attach(two(), density=0.1, select="random", seed=s).selections for s in (0, 0, 1)]
    same = [all(torch.equal(p[n].to_index(), picks[0][n].to_index()) for n in p) for p in picks]
    assert same == [True, True, False]
    assert [s.count for s in picks[0].values()] == [300, 5, 150, 3]


def test_a_threshold_with_largest_selects_above_it() -> None:
    selections = attach(net(), threshold=THETA, select="largest").selections
    assert torch.equal(selections["0.weight"].to_mask(), net()[0].weight.abs() > THETA)


def test_nan_is_never_selected() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[math.nan, 0.1, math.inf]]))
    assert attach(model, threshold=math.inf).selections["weight"].to_index().tolist() == [1]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (None, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("*.weight", ["0.weight", "2.weight"]),
        (["2.*", "0.bias"], ["0.bias", "2.weight", "2.bias"]),
        (lambda name, module, p: isinstance(module, nn.Linear) and p.dim() == 1, ["0.bias", "2.bias"]),
    ],
)
def test_targets(target: Any, names: list[str]) -> None:
    model = net()
    adapter = attach(model, density=0.5, target=target)
    assert list(adapter.selections) == names
    for name, parameter in net().named_parameters():
        assert dict(model.named_parameters())[name].requires_grad is (name not in names), parameter.shape


def test_parameters_that_are_not_floating_are_passed_over_or_refused() -> None:
    model = net()
    model.register_parameter("table", nn.Parameter(torch.arange(3), requires_grad=False))
    with pytest.raises(TypeError, match="parameter 'table'"):
        attach(model, density=0.1, target="table")
    assert "table" not in attach(model, density=0.1).selections


# --- what is refused ---


def overlapping() -> nn.Module:
    model, memory = nn.Module(), torch.randn(20)
    model.a, model.b = nn.Parameter(memory[:12]), nn.Parameter(memory[8:])
    return model


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "attached twice": (lambda: attach(net(), density=0.1).model, {}, ValueError, "detach"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), {}, ValueError, "meta device"),
    "lazy": (lambda: nn.LazyLinear(3), {}, ValueError, "lazy module"),
    "shared memory": (overlapping, {}, ValueError, "'a' and 'b'"),
    "max_norm": (lambda: nn.Embedding(4, 3, max_norm=1.0), {}, ValueError, "max_norm"),
    "no parameters": (lambda: nn.ReLU(), {}, ValueError, "argument 'target'"),
    "no such name": (net, {"target": "3.weight"}, ValueError, "0.weight"),
    "no target": (net, {"target": lambda *_: False}, ValueError, "argument 'target'"),
    "threshold and density": (net, {"threshold": 0.1, "density": 0.1}, ValueError, "argument 'density'"),
    "negative threshold": (net, {"threshold": -0.1}, ValueError, "argument 'threshold'"),
    "nan threshold": (net, {"threshold": math.nan}, ValueError, "argument 'threshold'"),
    "density above 1": (net, {"density": 1.1}, ValueError, "argument 'density'"),
    "random threshold": (net, {"threshold": 0.1, "select": "random"}, ValueError, "argument 'density'"),
    "select": (net, {"select": "median"}, ValueError, "argument 'select'"),
    "scope": (net, {"scope": "layer"}, ValueError, "argument 'scope'"),
    "values": (net, {"values": "nowhere"}, ValueError, "argument 'values'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, settings, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        attach(make(), **settings)


def test_a_taken_name_is_refused() -> None:
    model = nn.Linear(3, 3)
    model.weight_values = 1
    with pytest.raises(ValueError, match="weight_values"):
        attach(model, density=0.5)


def test_flattened_neighbors_in_one_memory_are_allowed() -> None:
    model, memory = nn.Module(), torch.randn(20)
    model.a, model.b = nn.Parameter(memory[:12]), nn.Parameter(memory[12:])
    assert attach(model, density=0.5).count == 10


def test_a_scripted_module_is_refused() -> None:
    with pytest.raises(ValueError, match="scripted"):
        attach(torch.jit.script(nn.Linear(3, 3)), density=0.5)


# --- progress and detach ---


def test_progress_without_optimizers_state_and_after_the_loss_is_kept() -> None:
    model = net()
    adapter = attach(model, THETA)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR, weight_decay=0.01, foreach=False)
    losses = []
    for k in range(1, 7):
        optimizer.zero_grad()
        loss = loss_of(model, k)
        loss.backward()
        optimizer.step()
        losses.append(loss)  # keeps the old graph alive
        if k == 3:
            adapter.progress(optimizer)
    printed = "2.095565 1.824643 1.445230 1.225289 1.396591 1.428442"
    assert [f"{x.item():.6f}" for x in losses] == printed.split()


def test_progress_past_the_end_leaves_nothing_and_training_changes_nothing() -> None:
    model = net()
    adapter = attach(model, THETA)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR)
    with torch.no_grad():
        for values in adapter.parameters():
            values.fill_(2 * THETA)
    with pytest.warns(UserWarning, match="nothing is left"):
        assert adapter.progress(optimizer) == 0
    before = weights(model)
    train(model, optimizer, range(1, 3))
    with pytest.warns(UserWarning, match="nothing is left"):
        assert adapter.progress(optimizer) == 0
    frozen_equal(before, weights(model), {})


@pytest.mark.parametrize("settings", [{"density": 0.1, "select": "largest"}, {"density": 0.1, "select": "random"}])
def test_progress_is_for_the_smallest(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="select='smallest'"):
        attach(net(), **settings).progress()


def test_progress_with_a_density_uses_the_threshold_it_amounts_to() -> None:
    model = two()
    adapter = attach(model, density=0.3)
    assert adapter.progress() == adapter.count == round(0.3 * 4580)
    values = dict(adapter.named_values())["0.weight"]
    with torch.no_grad():
        values[:100] = 5
    assert adapter.progress() == round(0.3 * 4580) - 100


def test_detach_leaves_a_plain_tuned_model() -> None:
    model = net()
    model[2].bias.requires_grad_(False)
    adapter = attach(model, THETA)
    train(model, torch.optim.AdamW(adapter.parameters(), lr=LR), range(1, 4))
    tuned = weights(model)
    assert adapter.detach() is model
    assert type(model[0]) is nn.Linear
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert [n for n, _ in model.named_parameters()] == list(tuned)
    frozen_equal(tuned, weights(model), {})
    assert not vars(model[0]).keys() - vars(net()[0]).keys()
    with pytest.raises(ValueError, match="detached"):
        adapter.count  # noqa: B018
    attach(model, THETA)


# --- merge ---


def test_merging_is_exact_at_both_ends_and_linear_between() -> None:
    model = net()
    base = weights(model)
    adapter = attach(model, THETA)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR)
    train(model, optimizer, range(1, 3))
    adapter.progress(optimizer)
    train(model, optimizer, range(3, 5))
    tuned = weights(model)
    for alpha in (0.0, 0.25, 1.0, 1.5, 2.0, -1.0):
        adapter.merge(alpha)
        for name, now in weights(model).items():
            exact = base[name].double() + alpha * (tuned[name].double() - base[name].double())
            torch.testing.assert_close(now, exact.float(), rtol=1.2e-7, atol=0)
            assert alpha not in (0, 1) or torch.equal(now, (base, tuned)[int(alpha)][name])
    assert not model(torch.ones(5)).requires_grad
    with pytest.raises(ValueError, match="not merged"):
        adapter.progress()
    adapter.unmerge()
    frozen_equal(tuned, weights(model), {})
    train(model, optimizer, range(5, 7))
    assert not torch.equal(weights(model)["0.weight"], tuned["0.weight"])


def test_merging_needs_a_kept_base_unless_alpha_is_one() -> None:
    model = net()
    adapter = attach(model, THETA, keep_base=False)
    with pytest.raises(ValueError, match="keep_base"):
        adapter.merge(0.5)
    before = weights(model)
    adapter.merge()
    frozen_equal(before, weights(model), {})
