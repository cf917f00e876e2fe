"""SaRAAdamW: the method's printed numbers, equality with masked dense AdamW, its settings, state and memory."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn

from tests.sparse.toy import DECAY, LR, THETA, MaskedAdamW, frozen_equal, loss_of, net, train, weights

SETTINGS: dict[str, Any] = {"lr": LR, "weight_decay": DECAY}
BOTH = pytest.mark.parametrize("values", ["own", "weights"])


def make(model: nn.Module, **settings: Any) -> pk.optim.SaRAAdamW:
    return pk.optim.SaRAAdamW(model, **{"threshold": THETA, **SETTINGS, **settings})


def close(got: list[float], printed: str) -> None:
    """To all printed digits: half a unit of the last one, and as much for how processors round float32 products."""
    assert got == pytest.approx([float(x) for x in printed.split()], rel=0, abs=1e-6)


# --- the toy run, to the printed digits ---


@BOTH
def test_toy_selects_what_it_should(values: str) -> None:
    optimizer = make(net(), values=values)
    selections = optimizer.adapter.selections
    assert [s.count for s in selections.values()] == [9, 2, 6, 2]
    assert selections["0.weight"].to_index().tolist() == [9, 12, 13, 15, 22, 24, 25, 26, 28]


@BOTH
def test_toy_with_the_progressive_stage(values: str) -> None:
    model = net()
    optimizer = make(model, values=values, progressive_iter=3)
    first = optimizer.adapter.selections["0.weight"].to_index().long()
    losses = train(model, optimizer, range(1, 4))
    after_three = model[0].weight.detach().view(-1)[first].tolist()
    losses += train(model, optimizer, range(4, 7))
    close(losses, "2.095565 1.824643 1.445230 1.225289 1.396591 1.428442")
    close(after_three, "0.155505 -0.179993 -0.315496 -0.301750 -0.021781 -0.229933 0.059469 -0.115304 -0.074639")
    close(
        model[0].weight.detach().view(-1)[first].tolist(),
        "0.304200 -0.326321 -0.315496 -0.301750 -0.170231 -0.229933 0.199925 -0.019094 -0.222843",
    )
    assert [s.count for s in optimizer.adapter.selections.values()] == [6, 1, 4, 2]


@BOTH
def test_toy_with_the_state_reset_and_a_step_skipped(values: str) -> None:
    model = net()
    optimizer = make(model, values=values, progressive_iter=3, reset_state_on_progress=True)
    losses = train(model, optimizer, range(1, 4))
    losses.append(loss_of(model, 4).item())  # the official code drops this step's gradient
    losses += train(model, optimizer, range(5, 7))
    close(losses, "2.095565 1.824643 1.445230 1.225289 1.481255 1.492304")


# --- equality with masked dense AdamW ---


def seventy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 70), nn.Tanh(), nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 3))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("progressive_iter", [None, 7])
def test_compact_equals_masked_dense(values: str, dtype: torch.dtype, progressive_iter: int | None) -> None:
    compact, dense = seventy().to(dtype), seventy().to(dtype)
    before = weights(compact)
    settings = {"lr": 3e-3, "weight_decay": 0.1}
    optimizer = pk.optim.SaRAAdamW(compact, 0.04, values=values, progressive_iter=progressive_iter, **settings)
    chosen = optimizer.adapter.selections
    got = train(compact, optimizer, range(1, 21), dtype)
    expected = train(dense, MaskedAdamW(dense, 0.04, progressive_iter or 0, **settings), range(1, 21), dtype)
    rtol = 2e-5 if dtype is torch.float32 else 1e-11
    torch.testing.assert_close(got, expected, rtol=rtol, atol=0)
    for name, tuned in weights(dense).items():
        torch.testing.assert_close(compact.state_dict()[name], tuned, rtol=rtol, atol=rtol)
    frozen_equal(before, weights(compact), chosen)
    if progressive_iter:
        assert 0 < optimizer.adapter.count < sum(s.count for s in chosen.values())


@BOTH
def test_entries_frozen_by_the_progressive_stage_keep_their_bits(values: str) -> None:
    model = seventy()
    optimizer = pk.optim.SaRAAdamW(model, 0.04, lr=3e-3, values=values)
    train(model, optimizer, range(1, 6))
    optimizer.progress()
    before, still = weights(model), optimizer.adapter.selections
    train(model, optimizer, range(6, 12))
    frozen_equal(before, weights(model), still)


def test_an_infinite_threshold_is_plain_adamw() -> None:
    all_of_it, plain = seventy(), seventy()
    train(all_of_it, pk.optim.SaRAAdamW(all_of_it, math.inf, lr=1e-3), range(1, 9))
    train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3, foreach=False), range(1, 9))
    for name, expected in weights(plain).items():
        torch.testing.assert_close(all_of_it.state_dict()[name], expected, rtol=1e-5, atol=2e-6)


@BOTH
def test_a_threshold_of_zero_selects_nothing_and_steps_change_nothing(values: str) -> None:
    model = net()
    before = weights(model)
    with pytest.warns(UserWarning, match="nothing is selected"):
        optimizer = make(model, threshold=0.0, values=values)
    train(model, optimizer, range(1, 4))
    assert optimizer.adapter.count == 0
    frozen_equal(before, weights(model), {})


def test_selection_is_strict() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.25, -0.25, 0.2499, -0.2499]]))
    assert pk.optim.SaRAAdamW(model, 0.25).adapter.selections["weight"].to_index().tolist() == [2, 3]


# --- the learning rate rule and the density of a Gaussian layer ---

RATES = [(2e-4, "9.3239e-04"), (8e-4, "7.5578e-04"), (2e-3, "4.9659e-04"), (5e-3, "1.7377e-04"), (1e-2, "3.0197e-05")]


@pytest.mark.parametrize(("threshold", "rate"), RATES)
def test_learning_rate_rule(threshold: float, rate: str) -> None:
    assert f"{pk.optim.SaRAAdamW(nn.Linear(40, 40), threshold).param_groups[0]['lr']:.4e}" == rate


def test_a_density_gets_the_rate_of_its_threshold() -> None:
    model = nn.Linear(50, 50)
    optimizer = pk.optim.SaRAAdamW(model, density=0.1)
    threshold = torch.cat([p.detach().view(-1).abs() for p in (model.weight, model.bias)]).kthvalue(255).values.item()
    assert optimizer.adapter.count == 255
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * math.exp(-350 * threshold), rel=1e-6)


@pytest.mark.parametrize(("threshold", "density"), [(2e-4, 0.0058), (8e-4, 0.0233), (2e-3, 0.0583)])
def test_density_of_a_gaussian_layer(threshold: float, density: float) -> None:
    model = nn.Linear(1500, 1000, bias=False)
    nn.init.normal_(model.weight, std=0.0274)
    assert math.erf(threshold / (0.0274 * math.sqrt(2))) == pytest.approx(density, rel=0.01)
    assert pk.sparse.attach(model, threshold).density == pytest.approx(density, rel=0.05)


# --- the low-rank loss reaches the values ---


def big() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(66, 80, bias=False)


@BOTH
def test_rank_penalty_equals_the_penalty_as_a_loss(values: str) -> None:
    x = torch.randn(9, 66)
    one, other = big(), big()
    optimizer = pk.optim.SaRAAdamW(one, 0.03, lr=1e-2, rank_penalty=0.5, values=values)
    adapter = pk.sparse.attach(other, 0.03)
    plain = torch.optim.AdamW(adapter.parameters(), lr=1e-2, foreach=False)
    for _ in range(3):
        optimizer.zero_grad()
        plain.zero_grad()
        one(x).square().mean().backward()
        (other(x).square().mean() + 0.5 * adapter.nuclear_penalty()).backward()
        optimizer.step()
        plain.step()
    torch.testing.assert_close(one.weight, other._parameters["weight"], rtol=1e-4, atol=1e-6)


def test_rank_penalty_changes_the_result_and_lowers_the_norm() -> None:
    def run(penalty: float) -> float:
        model = big()
        optimizer = pk.optim.SaRAAdamW(model, 0.03, lr=1e-2, rank_penalty=penalty, weight_decay=0)
        mask = optimizer.adapter.selections["weight"].to_mask()
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.ones(2, 66)).square().mean().backward()
            optimizer.step()
        return torch.linalg.matrix_norm(model.weight.detach() * mask, "nuc").item()

    assert run(1.0) < 0.9 * run(0.0)


def test_rank_penalty_without_a_matrix_is_refused_and_leaves_the_model_alone() -> None:
    model = net()
    with pytest.raises(ValueError, match="argument 'rank_penalty'"):
        make(model, rank_penalty=5e-4)
    assert type(model[0]) is nn.Linear
    assert model[0].weight.requires_grad


# --- 8-bit moments ---


def test_int8_moments_train_about_as_well() -> None:
    runs = {}
    for moments in ("float32", "int8"):
        model = seventy()
        optimizer = pk.optim.SaRAAdamW(model, 0.05, lr=3e-3, moments=moments, progressive_iter=20)
        runs[moments] = [train(model, optimizer, range(1, 2))[0] for _ in range(40)]  # one batch, over and over
    start, full, coded = runs["float32"][0], runs["float32"][-1], runs["int8"][-1]
    assert full < 0.9 * start
    assert coded == pytest.approx(full, abs=0.01 * start)


# --- checkpoints ---


@BOTH
@pytest.mark.parametrize("moments", ["float32", "int8"])
@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("trained_weights", [False, True])
def test_state_dict_goes_on_as_if_never_stopped(values: str, moments: str, stop: int, trained_weights: bool) -> None:
    settings = {"values": values, "moments": moments, "progressive_iter": 4}
    model = seventy()
    optimizer = pk.optim.SaRAAdamW(model, 0.05, lr=3e-3, **settings)
    train(model, optimizer, range(1, stop + 1))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    expected = train(model, optimizer, range(stop + 1, 12))

    state = torch.load(file, weights_only=True)
    fresh = seventy()
    if trained_weights:
        fresh.load_state_dict(state["model"])
    resumed = pk.optim.SaRAAdamW(fresh, 0.05, lr=3e-3, **settings)
    resumed.load_state_dict(state["optimizer"])
    assert train(fresh, resumed, range(stop + 1, 12)) == expected
    for name, tuned in weights(model).items():
        assert torch.equal(fresh.state_dict()[name], tuned)


def test_state_of_another_model_is_refused() -> None:
    optimizer = make(net())
    other = net()
    with torch.no_grad():
        other[0].weight[0, 0] += 1
    with pytest.raises(pk.ModelMismatchError, match=r"frozen entries of '0\.weight'"):
        make(other).load_state_dict(optimizer.state_dict())


def test_copies_and_pickles_of_optimizer_and_model_train_alike() -> None:
    model = net()
    optimizer = make(model)
    train(model, optimizer, range(1, 3))
    copies = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    expected = train(model, optimizer, range(3, 6))
    for copied, its_optimizer in copies:
        assert train(copied, its_optimizer, range(3, 6)) == expected


# --- use ---


def test_schedulers_and_clipping_reach_it() -> None:
    model = seventy()
    optimizer = pk.optim.SaRAAdamW(model, 0.05, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    loss_of(model, 1).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm > 1e-2
    clipped = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert clipped.item() == pytest.approx(1e-3, rel=1e-3)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 1e-2


def test_step_with_a_closure() -> None:
    model, other = net(), net()
    optimizer = make(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 1)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert [loss.item()] == train(other, make(other), range(1, 2))
    assert torch.equal(model.state_dict()["0.weight"], other.state_dict()["0.weight"])


def test_half_precision_weights_keep_float32_values() -> None:
    model = seventy().bfloat16()
    optimizer = pk.optim.SaRAAdamW(model, 0.05, lr=1e-5)
    values = dict(optimizer.adapter.named_values())["2.weight"]
    start = values.detach().clone()
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.ones(2, 5, dtype=torch.bfloat16)).float().square().mean().backward()
        optimizer.step()
    assert values.dtype is values.grad.dtype is torch.float32
    assert (values - start).abs().max() > 1.5e-4  # twenty steps of 1e-5, each below a bfloat16 rounding of most entries
    selection = optimizer.adapter.selections["2.weight"]
    assert torch.equal(selection.gather(model[2]._parameters["weight"]), values.detach().bfloat16())


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"eps": -1e-8}, "eps"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"rank_penalty": -1.0}, "rank_penalty"),
        ({"progressive_iter": -1}, "progressive_iter"),
        ({"moments": "int4"}, "moments"),
        ({"threshold": 0.1, "density": 0.1}, "density"),
        ({"density": 0.1, "select": "random"}, "lr"),
        ({"density": 0.1, "scope": "tensor"}, "lr"),
        ({"values": "none"}, "values"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], argument: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=f"argument '{argument}"):
        pk.optim.SaRAAdamW(model, **settings)
    assert type(model[0]) is nn.Linear


def test_other_parameters_need_another_optimizer() -> None:
    with pytest.raises(ValueError, match="an optimizer of their own"):
        make(net()).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@BOTH
def test_a_merged_model_is_not_stepped(values: str) -> None:
    model = net()
    optimizer = make(model, values=values, keep_base=True)
    train(model, optimizer, range(1, 3))
    tuned = weights(model)
    loss_of(model, 3).backward()
    optimizer.adapter.merge(0.5)
    optimizer.step()
    optimizer.adapter.unmerge()
    frozen_equal(tuned, weights(model), {})


def test_what_is_no_model_or_beyond_the_rule_is_named() -> None:
    model = torch.nn.Linear(20, 20)
    with pytest.raises(TypeError, match=r"argument 'model': expected a torch.nn.Module, got generator"):
        pk.optim.SaRAAdamW(model.parameters())  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"beyond the 0\.01 .* give lr= yourself"):
        pk.optim.SaRAAdamW(model, threshold=0.02)
    with pytest.raises(ValueError, match=r"argument 'lr'.*the paper's rule gives 0"):
        pk.optim.SaRAAdamW(torch.nn.Linear(20, 20), threshold=10.0)
