"""Checkpoints hold which entries are trained and how moments are kept, are checked, and survive checkpointers."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import probkernels as pk
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from tests.sparse.toy import frozen_equal, train, weights

KINDS = pytest.mark.parametrize("moments", ["float32", "int8"])
RATE = {"lr": 3e-3}


def seventy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 70), nn.Tanh(), nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 3))


def make(model: nn.Module, **settings: Any) -> pk.optim.SaRAAdamW:
    return pk.optim.SaRAAdamW(model, **{"threshold": 0.05, **RATE, **settings})


# --- checkpointers that keep state and param_groups alone ---


@KINDS
@pytest.mark.parametrize("stop", [0, 2, 6])
def test_torchs_distributed_checkpoint_goes_on_as_if_never_stopped(moments: str, stop: int, tmp_path: Path) -> None:
    settings = {"moments": moments, "progressive_iter": 4}
    model = seventy()
    optimizer = make(model, **settings)
    train(model, optimizer, range(1, stop + 1))
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    expected = train(model, optimizer, range(stop + 1, 9))

    fresh = seventy()
    resumed = make(fresh, **settings)
    state = {"optimizer": get_optimizer_state_dict(fresh, resumed)}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(fresh, resumed, state["optimizer"])
    assert resumed.updates == stop
    assert train(fresh, resumed, range(stop + 1, 9)) == expected
    for name, tuned in weights(model).items():
        assert torch.equal(fresh.state_dict()[name], tuned)


def test_a_state_dict_is_state_and_groups_of_tensors_and_plain_python() -> None:
    optimizer = make(seventy())
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    for entry in state["state"].values():
        assert all(isinstance(v, (torch.Tensor, int)) for v in entry.values())


# --- moments of the other kind ---


@pytest.mark.parametrize(("saved", "kept"), [("int8", "float32"), ("float32", "int8")])
def test_moments_are_converted(saved: str, kept: str) -> None:
    model, other = seventy(), seventy()
    optimizer, its = make(model, moments=saved), make(other, moments=kept)
    train(model, optimizer, range(1, 4))
    its.load_state_dict(optimizer.state_dict())
    before = weights(model)
    frozen_equal(before, weights(other), {})
    steps = []
    for net, o in ((model, optimizer), (other, its)):
        train(net, o, range(4, 5))
        steps.append(torch.cat([(t - before[n]).flatten() for n, t in weights(net).items()]))
    assert (steps[0] - steps[1]).norm() < 0.05 * steps[0].norm()
    values = its.param_groups[0]["params"][0]
    assert its.state[values]["exp_avg"].dtype is (torch.uint8 if kept == "int8" else torch.float32)


# --- other entries than those trained ---


@pytest.mark.parametrize("settings", [{"threshold": 0.06}, {"threshold": None, "density": 0.3}, {"scope": "tensor"}])
def test_a_state_of_another_rule_is_refused(settings: dict[str, Any]) -> None:
    state = make(seventy()).state_dict()
    other = make(seventy(), **settings)
    before = copy.deepcopy(other.adapter.selections)
    with pytest.raises(pk.ModelMismatchError, match="selected by"):
        other.load_state_dict(state)
    assert {n: s.count for n, s in other.adapter.selections.items()} == {n: s.count for n, s in before.items()}
    adapters = [pk.sparse.attach(seventy(), **s) for s in ({"threshold": 0.05}, {"density": 0.3})]
    with pytest.raises(pk.ModelMismatchError, match="selected by"):
        adapters[1].load_state_dict(adapters[0].state_dict())


def test_a_plain_optimizers_state_of_other_entries_is_refused() -> None:
    model = seventy()
    adapter = pk.sparse.attach(model, density=0.1, scope="tensor")
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    train(model, optimizer, range(1, 8))
    again = seventy()
    again.load_state_dict(model.state_dict())  # tuned weights, of which others are the smallest
    its = pk.sparse.attach(again, density=0.1, scope="tensor")
    other = torch.optim.AdamW(its.parameters(), 1e-2)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(pk.ModelMismatchError, match="other entries of '"):
        train(again, other, range(8, 9))
    its.load_state_dict(adapter.state_dict())  # with it, they are the same
    assert train(again, other, range(8, 10)) == train(model, optimizer, range(8, 10))


def test_progress_keeps_the_states_of_named_optimizers_only() -> None:
    model = seventy()
    adapter = pk.sparse.attach(model, 0.05)
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    train(model, optimizer, range(1, 4))
    adapter.progress(optimizer)
    train(model, optimizer, range(4, 7))
    adapter.progress()
    with pytest.raises(pk.ModelMismatchError, match="progress"):
        train(model, optimizer, range(7, 8))


def test_states_of_other_optimizers_and_groups_are_refused() -> None:
    model = seventy()
    with pytest.raises(pk.ModelMismatchError, match="no state of such"):
        make(model).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    optimizer = make(seventy())
    state = optimizer.state_dict()
    del state["state"][0]["checksum"]
    with pytest.raises(pk.ModelMismatchError, match="checksum"):
        optimizer.load_state_dict(state)
    state = optimizer.state_dict()
    del state["state"][0]
    with pytest.raises(pk.ModelMismatchError, match="missing"):
        optimizer.load_state_dict(state)
    with pytest.raises(pk.ModelMismatchError, match="no state of such"):
        optimizer.load_state_dict({})


# --- parameter groups ---


def test_a_state_without_a_group_that_was_removed_is_refused() -> None:
    model = seventy()
    optimizer = make(model, groups=[{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    optimizer.param_groups.pop()
    with pytest.raises(ValueError, match="argument 'param_groups': expected all of the adapter's values"):
        optimizer.state_dict()


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay", "rank_penalty"])
def test_numbers_are_finite(name: str) -> None:
    with pytest.raises(ValueError, match=f"argument '{name}': expected a finite number, got inf"):
        make(seventy(), **{name: math.inf})


def test_groups_have_rates_of_their_own_and_train_nothing_else(tmp_path: Path) -> None:
    model, alike = seventy(), seventy()
    groups = [{"params": [model[0].weight], "lr": 0.0, "weight_decay": 0.0}, {"params": model[2].parameters()}]
    optimizer = make(model, groups=groups)
    assert list(optimizer.adapter.selections) == ["0.weight", "2.weight", "2.bias"]
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 2]
    before = weights(model)
    plain = make(alike, target="2.*")
    assert train(model, optimizer, range(1, 5)) == pytest.approx(train(alike, plain, range(1, 5)), rel=1e-6)
    assert torch.equal(weights(model)["0.weight"], before["0.weight"])
    assert not torch.equal(weights(model)["2.weight"], before["2.weight"])
    fresh = seventy()
    groups = [{"params": [fresh[0].weight], "lr": 0.5}, {"params": fresh[2].parameters()}]
    resumed = make(fresh, groups=groups)
    resumed.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in resumed.param_groups] == [0.0, 3e-3]
    assert train(fresh, resumed, range(5, 8)) == train(model, optimizer, range(5, 8))


@pytest.mark.parametrize(
    ("groups", "error", "text"),
    [
        (lambda m: [{"params": m.parameters(), "momentum": 1}], ValueError, "momentum"),
        (lambda m: [{"lr": 1}], TypeError, r"groups\[0\]"),
        (lambda m: [{"params": []}], ValueError, "at least one"),
        (lambda m: [{"params": nn.Linear(2, 2).parameters()}], ValueError, "of the model"),
        (lambda m: [{"params": m[0].parameters()}, {"params": m[0].weight}], ValueError, r"groups\[0\] again"),
        (lambda m: [{"params": m.parameters(), "lr": -1.0}], ValueError, "'lr'"),
        (lambda m: [{"params": m.parameters(), "betas": (0.9, 1.0)}], ValueError, "betas"),
    ],
)
def test_groups_are_checked(groups: Any, error: type[Exception], text: str) -> None:
    model = seventy()
    with pytest.raises(error, match=text):
        make(model, groups=groups(model))
    assert type(model[0]) is nn.Linear


def test_groups_and_a_target_are_one_too_many() -> None:
    model = seventy()
    with pytest.raises(ValueError, match="argument 'groups'"):
        make(model, groups=[{"params": model.parameters()}], target="*.weight")


# --- at the door ---


@pytest.mark.parametrize("given", ["generator", "list", "groups"])
def test_parameters_in_place_of_a_model_are_named(given: str) -> None:
    model = seventy()
    wrong: Any = {
        "generator": model.parameters(),
        "list": list(model.parameters()),
        "groups": [{"params": model.parameters()}],
    }[given]
    for call in (pk.optim.SaRAAdamW, pk.sparse.attach):
        with pytest.raises(TypeError, match=r"argument 'model': expected a torch\.nn\.Module") as caught:
            call(wrong)
        assert len(str(caught.value)) < 200


def test_a_learning_rate_out_of_the_rules_range_is_told() -> None:
    with pytest.warns(UserWarning, match=r"beyond .*lr=.*give lr= yourself"):
        optimizer = pk.optim.SaRAAdamW(seventy(), density=0.2)
    assert optimizer.param_groups[0]["lr"] < 1e-4
    model = seventy()
    with pytest.raises(ValueError, match=r"argument 'lr'.*threshold of 10.*give lr="):
        pk.optim.SaRAAdamW(model, 10.0)
    assert type(model[0]) is nn.Linear
    assert make(seventy(), threshold=math.inf).param_groups[0]["lr"] == 3e-3
