"""A weight that is set from outside is computed with, trained from there and saved; or it raises."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn

Model = tuple[nn.Sequential, pk.sparse.Adapter]
X = torch.linspace(-1, 1, 24).view(4, 6)
NEW = torch.linspace(1, -2, 48).view(8, 6)
BOTH = pytest.mark.parametrize("values", ["own", "weights"])


def make(values: str = "own", dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    return model, pk.sparse.attach(model, density=0.3, values=values)


def plain_with(model: nn.Module, weight: Tensor) -> nn.Module:
    plain = pk.sparse.Adapter.of(copy.deepcopy(model)).detach()
    plain[0].weight.data = weight.clone()
    return plain


def new_data(model: nn.Sequential) -> None:
    model[0].weight.data = NEW.clone()


def new_data_without_grad(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.data = NEW.clone()


def copied(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.copy_(NEW)


def copied_into_data(model: nn.Sequential) -> None:
    model[0].weight.data.copy_(NEW)


def copied_into_the_named(model: nn.Sequential) -> None:
    dict(model.named_parameters())["0.weight"].data.copy_(NEW)


def initialized(model: nn.Sequential) -> None:
    nn.init.constant_(model[0].weight, 1)
    model[0].weight.data.mul_(NEW)


def got_by_name(model: nn.Sequential) -> None:
    model.get_parameter("0.weight").data = NEW.clone()


def other_storage(model: nn.Sequential) -> None:
    model[0].weight.set_(NEW.clone())


def swapped(model: nn.Sequential) -> None:
    held = model[0]._parameters["weight"]
    assert held is not None
    torch.utils.swap_tensors(held, nn.Parameter(NEW.clone(), requires_grad=False))


def loaded(model: nn.Sequential) -> None:
    model.load_state_dict({**model.state_dict(), "0.weight": NEW.clone()})


def assigned(model: nn.Sequential) -> None:
    model.load_state_dict({**model.state_dict(), "0.weight": NEW.clone()}, assign=True)


def over_meta(model: nn.Sequential) -> None:
    state = {name: t.clone() for name, t in model.state_dict().items()}
    model.to("meta").to_empty(device="cpu")
    model.load_state_dict({**state, "0.weight": NEW.clone()})


WAYS = [
    *(new_data, new_data_without_grad, copied, copied_into_data, copied_into_the_named, initialized, got_by_name),
    *(other_storage, swapped, loaded, assigned, over_meta),
]
each_way = pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)


@each_way
@BOTH
def test_it_is_computed_with_and_saved(change: Callable[[nn.Sequential], None], values: str) -> None:
    model, adapter = make(values)
    expected = plain_with(model, NEW)(X)
    model(X)
    change(model)
    torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-6)
    assert torch.equal(model.state_dict()["0.weight"], NEW)
    model(X).sum().backward()
    assert adapter.parameters()[0].grad is not None


@pytest.mark.parametrize("change", [new_data, copied_into_data], ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["AdamW", "SaRAAdamW"])
def test_steps_go_on_from_it(change: Callable[[nn.Sequential], None], name: str) -> None:
    """Also when it is set between a backward and its step, and after each of many steps."""
    model, adapter = make()
    if name == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    else:
        adapter.detach()
        optimizer = pk.optim.SaRAAdamW(model, density=0.3, lr=1e-2, values="own")
        adapter = optimizer.adapter
    mask = adapter.selections["0.weight"].to_mask()
    for _ in range(2):
        model(X).sum().backward()
        change(model)
        optimizer.step()
        now = model.state_dict()["0.weight"]
        assert torch.equal(now[~mask], NEW[~mask])
        far = (now - NEW)[mask].abs()
        assert far.max() < 0.02
        assert (far > 1e-4).any()
        change(model)
        assert torch.equal(model.state_dict()["0.weight"], NEW)


def test_a_copy_of_an_average_does_not_hide_a_later_change() -> None:
    """Copying an average in changes weights and values alike."""
    model, _ = make()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    model[0].weight_values.data.add_(1)
    model(X)
    averaged.update_parameters(model)
    copied_into_data(averaged.module)
    assert torch.equal(averaged.module.state_dict()["0.weight"], NEW)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_hear_it_too(way: str) -> None:
    model, _ = make()
    with torch.no_grad():
        model[0].weight_values.add_(1)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(other(X), model(X))
    copied_into_data(other)
    assert torch.equal(other.state_dict()["0.weight"], NEW)
    assert not torch.equal(model.state_dict()["0.weight"], NEW)


def test_casting_is_no_change_and_a_later_one_is_heard() -> None:
    model, adapter = make()
    start = adapter.parameters()[0].detach().clone()
    model.bfloat16()
    model(X.bfloat16())
    assert torch.equal(adapter.parameters()[0], start)  # not rounded
    model[0].weight.data[0] = 1
    model(X.bfloat16())
    rows = adapter.selections["0.weight"].to_index() // 6
    assert torch.equal(adapter.parameters()[0], torch.where(rows == 0, 1.0, start))


def test_after_the_progressive_stage_and_a_merge() -> None:
    model, adapter = make()
    adapter.progress()
    adapter.merge(0.5)
    adapter.unmerge()
    copied_into_data(model)
    assert torch.equal(model.state_dict()["0.weight"], NEW)


def turned(weight: Tensor) -> Tensor:
    return weight.flip(0)


def reversed_(weight: Tensor) -> Tensor:
    return weight.flip(0, 1)


def negated(weight: Tensor) -> Tensor:
    return -weight


@pytest.mark.parametrize("change", [turned, reversed_, negated])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merged", [False, True])
def test_changes_that_keep_sums_are_seen(change: Callable[[Tensor], Tensor], dtype: torch.dtype, merged: bool) -> None:
    """Entries change places, or as many signs go one way as the other."""
    for rows in (2, 4, 6, 8):
        model = nn.Linear(6, rows, bias=False, dtype=dtype)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-1, 1, 6 * rows).view(rows, 6))
        adapter = pk.sparse.attach(model, density=1.0, values="own")
        wanted = change(model.weight.detach()).clone()
        if merged:
            adapter.merge()
        with torch.no_grad():
            model.weight.copy_(wanted)
        if merged:
            adapter.unmerge()
        assert torch.equal(model.state_dict()["weight"], wanted)


def test_two_entries_that_change_places_are_seen() -> None:
    norm = nn.LayerNorm(2, bias=False)
    pk.sparse.attach(norm, density=1.0, values="own")
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0]))
        norm(torch.ones(2))
        norm.weight.copy_(torch.tensor([2.0, 0.5]))
    assert norm.state_dict()["weight"].tolist() == [2.0, 0.5]


def test_where_both_were_changed_values_are_written() -> None:
    model, adapter = make()
    model(X)
    model[0].weight.data.copy_(NEW)
    adapter.parameters()[0].data.fill_(3)
    selection = adapter.selections["0.weight"]
    expected = torch.where(selection.to_mask(), 3.0, NEW)
    assert torch.equal(model.state_dict()["0.weight"], expected)


# --- what is refused ---


@BOTH
@pytest.mark.parametrize("frozen", [False, True])
def test_another_parameter_is_refused(values: str, frozen: bool) -> None:
    model, _ = make(values)
    with pytest.raises(ValueError, match=r"'weight'.*detach"):
        model[0].weight = nn.Parameter(NEW.clone(), requires_grad=not frozen)
    loose = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    pk.sparse.attach(loose, density=0.3)
    with torch.no_grad(), pytest.raises(ValueError, match="detach"):
        loose[0].weight = loose[1].weight


@BOTH
def test_unfreezing_weights_is_refused(values: str) -> None:
    """As GANs' loops do it: gradients would silently go to whole weights, and values would have none."""
    model, adapter = make(values)
    model.requires_grad_(False)
    model.requires_grad_(True)
    with pytest.raises(ValueError, match=r"requires_grad=True.*adapter\.parameters"):
        model(X)
    adapter.detach()
    model(X).sum().backward()


def test_swapping_the_weight_in_use_is_refused() -> None:
    model, _ = make()
    with pytest.raises(RuntimeError, match="different slots"):
        torch.utils.swap_tensors(model[0].weight, nn.Parameter(NEW.clone()))


def test_the_weight_in_use_is_saved_as_a_plain_tensor() -> None:
    model, _ = make()
    file = io.BytesIO()
    torch.save({"weight": model[0].weight}, file)
    file.seek(0)
    assert type(torch.load(file)["weight"]) is Tensor


def test_a_forward_on_the_meta_device_keeps_the_selection() -> None:
    model, adapter = make()
    shapes = copy.deepcopy(model).to("meta")
    assert shapes(X.to("meta")).shape == (4, 3)
    shapes.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(shapes(X), model(X))
    assert torch.equal(
        pk.sparse.Adapter.of(shapes).selections["0.weight"].to_index(), adapter.selections["0.weight"].to_index()
    )


def test_an_optimizer_made_before_attaching_is_told() -> None:
    model = nn.Linear(6, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pk.sparse.attach(model, density=0.3)
    model(X).sum().backward()
    with pytest.warns(UserWarning, match=r"'weight' and not its values.*after attach"):
        optimizer.step()


@BOTH
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_weight_that_is_set_while_merged_stays(alpha: float, values: str) -> None:
    model, adapter = make(values)
    with torch.no_grad():
        model[2]._parameters["weight"].add_(0.25)
    tuned = {name: t.clone() for name, t in model.state_dict().items()}
    adapter.merge(alpha)
    copied_into_data(model)
    chosen = adapter.selections["0.weight"].to_index()
    assert torch.equal(adapter.delta().parts["0.weight"].values, NEW.view(-1)[chosen])
    adapter.unmerge()
    expected = {**tuned, "0.weight": NEW}
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    model(X).sum().backward()
    assert adapter.parameters()[0].grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_casting_while_merged_is_no_change(dtype: torch.dtype) -> None:
    model, adapter = make()
    with torch.no_grad():
        adapter.parameters()[0].add_(0.3)
    tuned = adapter.parameters()[0].detach().clone()
    adapter.merge(0)
    model.to(dtype)
    adapter.unmerge()
    assert torch.equal(adapter.parameters()[0], tuned.to(adapter.parameters()[0].dtype))
    adapter.merge(0)
    model[0].weight.data = NEW.to(dtype)
    model.to(dtype)
    adapter.unmerge()
    assert torch.equal(model.state_dict()["0.weight"], NEW.to(dtype))


@pytest.mark.parametrize("inner", [False, True])
def test_loading_into_a_merged_model_is_refused_before_anything_is_loaded(inner: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8)))
    adapter = pk.sparse.attach(model, density=0.3, target="0.1.weight")
    part = model[0] if inner else model
    state = {name: torch.full_like(t, 7) for name, t in part.state_dict().items()}
    adapter.merge(0)
    adapter.merge()
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for merged in (model, other, torch.load(file, weights_only=False)):
        before = {name: t.clone() for name, t in merged.state_dict().items()}
        with pytest.raises(ValueError, match=r"load_state_dict.*unmerge\(\)"):
            (merged[0] if inner else merged).load_state_dict(state)
        assert all(torch.equal(t, before[name]) for name, t in merged.state_dict().items())
    pk.sparse.Adapter.of(other).unmerge()
    adapter.detach()
    for free in (other, model):
        assert not any(module._load_state_dict_pre_hooks for module in free.modules())
        (free[0] if inner else free).load_state_dict(state)
        assert all((t == 7).all() for t in free.state_dict().values())


# --- what is done to the weight of one use ---


@BOTH
def test_a_parameter_made_of_the_weight(values: str) -> None:
    model, _ = make(values)
    weight = model[0].weight
    made = nn.Parameter(weight)
    assert type(made) is nn.Parameter
    assert made.is_leaf
    assert made.requires_grad
    assert made.data_ptr() == weight.data_ptr()  # as of any tensor
    assert not vars(made)  # it neither keeps nor pickles the weight that it was made of
    assert type(nn.Parameter(weight.detach(), requires_grad=False)) is nn.Parameter
    assert type(nn.Parameter(weight.detach().clone())) is nn.Parameter
    other = nn.Linear(6, 8)
    other.weight = nn.Parameter(model[0].weight.data.clone())
    other(X).sum().backward()
    assert other.weight.grad is not None
    for copied_ in (copy.deepcopy(model[0].weight), copy.deepcopy(model[0].weight.detach())):
        assert type(copied_) is Tensor
        assert torch.equal(copied_, weight)


def test_hooks_and_gradients_that_the_next_use_would_not_have_are_refused() -> None:
    model, adapter = make()
    with pytest.raises(ValueError, match=r"register_hook.*weight of one use.*adapter\.parameters"):
        model[0].weight.register_hook(lambda grad: grad)
    for new in (None, NEW):
        with pytest.raises(ValueError, match=r"'grad'.*adapter\.parameters"):
            model[0].weight.grad = new
    used = model[0].weight
    used.retain_grad()
    (used * NEW).sum().backward()
    assert torch.equal(used.grad, NEW)
    seen: list[Tensor] = []
    adapter.parameters()[0].register_hook(seen.append)
    model(X).sum().backward()
    assert len(seen) == 1
