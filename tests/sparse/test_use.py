"""What an attached model still is: its state dict, every optimizer, scaler, average, copy, cast and move."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.sparse.toy import LR, THETA, frozen_equal, loss_of, net, train, weights


def test_the_state_dict_is_that_of_the_plain_model() -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA)
    train(model, torch.optim.AdamW(adapter.parameters(), lr=LR), range(1, 4))
    state = model.state_dict()
    plain = net()
    plain.load_state_dict(state)
    assert torch.equal(plain(torch.ones(5)), model(torch.ones(5)))
    assert isinstance(model[0], nn.Linear)
    assert repr(model) == repr(plain)


@pytest.mark.parametrize("assign", [False, True])
def test_loading_a_plain_state_dict_sets_the_values(assign: bool) -> None:
    model, other = net(), net()
    adapter = pk.sparse.attach(model, THETA)
    with torch.no_grad():
        other[0].weight.add_(1)
    model.load_state_dict(other.state_dict(), assign=assign)
    got = dict(adapter.named_values())["0.weight"]
    assert torch.equal(got, adapter.selections["0.weight"].gather(other[0].weight.detach()))
    assert torch.equal(model(torch.ones(5)), other(torch.ones(5)))
    assert not model._modules["0"]._parameters["weight"].requires_grad
    adapter.parameters()[0].data.add_(1)
    assert model.load_state_dict(other.state_dict(), strict=True).missing_keys == []


def test_values_changed_by_hand_are_seen() -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA)
    values = dict(adapter.named_values())["0.weight"]
    with torch.no_grad():
        values.zero_()
    selection = adapter.selections["0.weight"]
    assert not selection.gather(model[0].weight.detach()).any()
    with torch.no_grad():
        values.fill_(2)
    assert (selection.gather(model.state_dict()["0.weight"]) == 2).all()
    with torch.no_grad():
        values.fill_(3)
    adapter.sync()
    assert (selection.gather(model[0]._parameters["weight"]) == 3).all()


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=LR, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=LR),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=LR),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_what_is_selected_and_nothing_else(name: str) -> None:
    model = net()
    before = weights(model)
    adapter = pk.sparse.attach(model, THETA)
    losses = [train(model, OPTIMIZERS[name](model.parameters()), range(1, 2))[0] for _ in range(15)]
    assert losses[-1] < losses[0]
    frozen_equal(before, weights(model), adapter.selections)
    assert any(not torch.equal(before[n], t) for n, t in weights(model).items())


def test_lbfgs() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(pk.sparse.attach(model, THETA).parameters(), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 1)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert loss_of(model, 1) < 0.9 * first


def test_gradients_accumulate_over_backwards() -> None:
    model, other = net(torch.float64), net(torch.float64)
    adapter, its = pk.sparse.attach(model, THETA), pk.sparse.attach(other, THETA)
    for k in (1, 2, 3):
        loss_of(model, k, torch.float64).backward()
    sum(loss_of(other, k, torch.float64) for k in (1, 2, 3)).backward()
    for a, b in zip(adapter.parameters(), its.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_grad_scaler_unscales_and_skips() -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    other = net()
    plain = torch.optim.SGD(pk.sparse.attach(other, THETA).parameters(), lr=0.1)
    scaler.scale(loss_of(model, 1)).backward()
    scaler.step(optimizer)
    scaler.update()
    loss_of(other, 1).backward()
    plain.step()
    torch.testing.assert_close(weights(model), weights(other))
    before = weights(model)
    optimizer.zero_grad()
    scaler.scale(loss_of(model, 2) * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512
    frozen_equal(before, weights(model), {})


def test_clipping_sees_the_gradients() -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA)
    loss_of(model, 1).backward()
    whole = torch.stack([v.grad.norm() for v in adapter.parameters()]).norm()
    torch.testing.assert_close(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01), whole)
    assert sum(v.grad.norm() ** 2 for v in adapter.parameters()).sqrt().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("values", ["own", "weights"])
def test_an_averaged_model_follows(values: str) -> None:
    model = net()
    before = weights(model)
    optimizer = pk.optim.SaRAAdamW(model, THETA, lr=LR, values=values)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = None
    for k in range(1, 5):
        train(model, optimizer, range(k, k + 1))
        averaged.update_parameters(model)
        now = weights(model)
        expected = now if expected is None else {n: torch.lerp(expected[n], t, 0.5) for n, t in now.items()}
    averaged.module(torch.ones(5))
    got = weights(averaged.module)
    for name, tuned in expected.items():
        torch.testing.assert_close(got[name], tuned, rtol=1e-6, atol=1e-7)
    frozen_equal(before, got, optimizer.adapter.selections)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("values", ["own", "weights"])
def test_copies_are_independent_and_keep_their_adapter(way: str, values: str) -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA, values=values)
    copied = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert type(copied[0]) is type(model[0])
    its = pk.sparse.Adapter.of(copied)
    loss_of(copied, 1).backward()
    assert all(v.grad is not None for v in its.parameters())
    assert all(v.grad is None for v in adapter.parameters())
    if values == "own":
        train(copied, torch.optim.AdamW(its.parameters(), lr=LR), range(1, 3))
        assert not torch.equal(weights(copied)["0.weight"], weights(model)["0.weight"])
    assert torch.equal(weights(model)["0.weight"], net()[0].weight)


def test_of_a_plain_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Adapter\.of"):
        pk.sparse.Adapter.of(net())


def test_tied_parameters_share_values_through_copies() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["table"].weight
    adapter = pk.sparse.attach(model, density=0.3)
    assert list(adapter.selections) == ["table.weight"]
    assert model["table"].weight_values is model["head"].weight_values
    copied = copy.deepcopy(model)
    assert copied["table"].weight_values is copied["head"].weight_values
    assert len(pk.sparse.Adapter.of(copied).parameters()) == 1
    adapter.detach()
    assert model["head"].weight is model["table"].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_the_model_casts_weights_but_not_masters(dtype: torch.dtype) -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA)
    start = [v.detach().clone() for v in adapter.parameters()]
    model.to(dtype)
    assert model[0]._parameters["weight"].dtype is dtype
    for values, old in zip(adapter.parameters(), start, strict=True):
        assert values.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert torch.equal(values.detach(), old.to(values.dtype))
    model(torch.ones(2, 5, dtype=dtype)).sum().backward()
    assert all(v.grad.dtype is v.dtype for v in adapter.parameters())


def test_moving_keeps_placeholders_without_memory() -> None:
    model = net()
    adapter = pk.sparse.attach(model, THETA, values="weights")
    model.double()
    assert all(v.untyped_storage().nbytes() == 8 for v in adapter.parameters())
    assert [v.numel() for v in adapter.parameters()] == [9, 2, 6, 2]


def test_channels_last_weights_train() -> None:
    model = nn.Conv2d(4, 6, 3)
    plain = copy.deepcopy(model)
    adapter = pk.sparse.attach(model, density=0.3)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    model(torch.ones(1, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    plain(torch.ones(1, 4, 5, 5)).square().sum().backward()
    stepped = plain.weight.detach() - 0.1 * plain.weight.grad
    mask = adapter.selections["weight"].to_mask()
    torch.testing.assert_close(model.weight.detach(), torch.where(mask, stepped, plain.weight.detach()))
    assert model._parameters["weight"].is_contiguous(memory_format=torch.channels_last)


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(torch.cat([x, t[:, None]], 1)).tanh()


@pytest.mark.parametrize("values", ["own", "weights"])
def test_a_merged_model_is_sampled_with_exact_gradients(values: str) -> None:
    torch.manual_seed(0)
    net = Velocity()
    adapter = pk.sparse.attach(net, density=0.5, values=values)
    adapter.merge()
    denoiser, start = pk.diffusion.Denoiser(net, pk.diffusion.VP(), pred="v"), torch.randn(4, 2, dtype=torch.float64)
    found = []
    for way in ("autograd", "exact"):
        x = start.clone().requires_grad_()
        y = pk.diffusion.sample(denoiser, x, solver="ddim", steps=3, grad=way)
        found.append((y.detach(), *torch.autograd.grad(y.sum(), x)))
    torch.testing.assert_close(found[1], found[0])
