"""What is broken in the official code works here, one test each; and checkpoints of others are imported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels._core import files
from torch import Tensor, nn

from tests.sparse.toy import LR, THETA, frozen_equal, loss_of, net, train, weights

BOTH = pytest.mark.parametrize("values", ["own", "weights"])


def make(model: nn.Module, values: str = "weights", **settings: Any) -> pk.optim.SaRAAdamW:
    return pk.optim.SaRAAdamW(model, THETA, values=values, **{"lr": LR, **settings})


@BOTH
def test_the_one_line_of_the_readme_and_a_step_without_a_progressive_iter_work(values: str) -> None:
    model = net()
    train(model, pk.optim.SaRAAdamW(model, threshold=THETA, values=values), range(1, 3))


@BOTH
def test_no_sign_is_flipped_by_attaching_or_progressing(values: str) -> None:
    model = net()
    optimizer = make(model, values, progressive_iter=2)
    frozen_equal(weights(net()), weights(model), {})
    assert f"{loss_of(model, 1).item():.6f}" == "2.095565"  # the official code: 2.2116
    train(model, optimizer, range(1, 2))
    before = weights(model)
    optimizer.progress()
    frozen_equal(before, weights(model), {})


@BOTH
def test_the_first_gradient_has_the_right_sign(values: str) -> None:
    model, plain = net(), net()
    adapter = make(model, values).adapter
    loss_of(model, 1).backward()
    loss_of(plain, 1).backward()
    for name, parameter in plain.named_parameters():
        got = dict(adapter.named_values())[name].grad
        torch.testing.assert_close(got, adapter.selections[name].gather(parameter.grad))


@BOTH
def test_the_low_rank_loss_has_an_effect_and_leaves_no_dense_gradient(values: str) -> None:
    results = []
    for penalty in (0.0, 0.5):
        torch.manual_seed(0)
        model = nn.Linear(70, 70)
        optimizer = make(model, values, rank_penalty=penalty)
        model(torch.ones(2, 70)).square().mean().backward()
        optimizer.step()
        assert model._parameters["weight"].grad is None
        results.append(weights(model)["weight"])
    assert not torch.equal(*results)


@BOTH
def test_two_backwards_a_step_accumulate(values: str) -> None:
    model = net()
    optimizer = make(model, values)
    loss_of(model, 1).backward()
    once = [v.grad.clone() for v in optimizer.adapter.parameters()]
    loss_of(model, 1).backward()
    for v, grad in zip(optimizer.adapter.parameters(), once, strict=True):
        torch.testing.assert_close(v.grad, 2 * grad)


@BOTH
def test_clipping_by_the_models_parameters_clips(values: str) -> None:
    model = net()
    make(model, values)
    loss_of(model, 1).backward()
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item() == pytest.approx(0.1, rel=1e-3)


@BOTH
def test_the_model_can_be_copied_and_its_parameters_stay_parameters(values: str) -> None:
    model = net()
    make(model, values)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(torch.ones(5)), model(torch.ones(5)))
    names = [n for n, p in model.named_parameters() if type(p) is nn.Parameter and not n.endswith("_values")]
    assert names == [n for n, _ in net().named_parameters()]


def test_a_checkpoint_loads() -> None:
    model = net()
    optimizer = make(model)
    train(model, optimizer, range(1, 3))
    fresh = net()
    make(fresh).load_state_dict(optimizer.state_dict())
    frozen_equal(weights(model), weights(fresh), {})


def test_another_dtype_of_the_base_is_noticed(tmp_path: Path) -> None:
    optimizer = make(net())
    optimizer.adapter.save(tmp_path / "delta")
    with pytest.raises(pk.ModelMismatchError, match=r"is torch\.bfloat16"):
        pk.sparse.Delta.load(tmp_path / "delta").apply(net().bfloat16())


@BOTH
def test_progressing_keeps_state_rate_and_gradient(values: str) -> None:
    model = net()
    optimizer = make(model, values)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(model, optimizer, range(1, 3))
    scheduler.step()
    loss_of(model, 3).backward()
    moments = {n: optimizer.state[v]["exp_avg"].clone() for n, v in optimizer.adapter.named_values()}
    before = optimizer.adapter.selections
    optimizer.progress()
    assert optimizer.param_groups[0]["lr"] == LR / 2
    for name, v in optimizer.adapter.named_values():
        kept = torch.isin(before[name].to_index(), optimizer.adapter.selections[name].to_index())
        assert torch.equal(optimizer.state[v]["exp_avg"], moments[name][kept])
        assert optimizer.state[v]["step"] == 2
        assert v.grad is None or v.grad.shape == v.shape


# --- imports ---


def official(model: nn.Module, base: nn.Module, threshold: float) -> dict[Any, Any]:
    """What the official ``save_params`` makes: values in the order of parameters, without positions."""
    pairs = zip(model.parameters(), base.parameters(), strict=True)
    values = {i: p.detach()[b.detach().abs() < threshold] for i, (p, b) in enumerate(pairs)}
    return {"threshold": threshold, **values}


def trained() -> nn.Module:
    model = net()
    optimizer = make(model)
    train(model, optimizer, range(1, 4))
    return optimizer.adapter.detach()


@pytest.mark.parametrize("as_file", [False, True])
def test_official_checkpoints(as_file: bool, tmp_path: Path) -> None:
    model = trained()
    checkpoint: Any = official(model, net(), THETA)
    if as_file:
        torch.save(checkpoint, tmp_path / "sara.pt")
        checkpoint = tmp_path / "sara.pt"
    delta = pk.sparse.import_sara(checkpoint, net())
    frozen_equal(weights(model), weights(delta.apply(net())), {})
    delta.save(tmp_path / "delta")
    frozen_equal(weights(model), weights(pk.sparse.Delta.load(tmp_path / "delta").apply(net())), {})


def test_official_checkpoints_that_do_not_fit() -> None:
    checkpoint = official(trained(), net(), THETA)
    with pytest.raises(pk.ModelMismatchError, match="entries below"):
        pk.sparse.import_sara({**checkpoint, 0: checkpoint[0][1:]}, net())
    with pytest.raises(pk.ModelMismatchError, match="3 parameters, the model 4"):
        pk.sparse.import_sara({k: v for k, v in checkpoint.items() if k != 3}, net())
    with pytest.raises(ValueError, match="argument 'checkpoint'"):
        pk.sparse.import_sara({0: checkpoint[0]}, net())


def shira(prefix: str = "base_model.model.") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    at = torch.randperm(30, generator=generator)[:11]  # in any order
    key = f"{prefix}0.shira_"
    return {f"{key}weight": torch.randn(11, generator=generator), f"{key}indices": torch.stack([at // 5, at % 5]).int()}


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("as_file", [False, True])
def test_shira_adapters(prefix: str, as_file: bool, tmp_path: Path) -> None:
    state = shira(prefix)
    learned, (rows, columns) = state[f"{prefix}0.shira_weight"], state[f"{prefix}0.shira_indices"].long()
    expected = net()
    with torch.no_grad():  # as peft merges
        expected[0].weight += torch.zeros(6, 5).index_put((rows, columns), learned * 0.5)
    source: Any = state
    if as_file:
        source = tmp_path / "adapter_model.safetensors"
        files.write(source, state, {"format": "pt"})
    model = pk.sparse.import_shira(source, net(), scaling=0.5).apply(net())
    torch.testing.assert_close(weights(model), weights(expected))
    frozen_equal(weights(net()), weights(pk.sparse.import_shira(state, net()).apply(net(), 0.0)), {})


def test_shira_adapters_that_do_not_fit() -> None:
    state = shira()
    key = "base_model.model.0.shira_"
    with pytest.raises(pk.ModelMismatchError, match="do not fit"):
        pk.sparse.import_shira({**state, f"{key}indices": state[f"{key}indices"] + 3}, net())
    with pytest.raises(pk.ModelMismatchError, match="lacks"):
        pk.sparse.import_shira({f"{key}weight": state[f"{key}weight"]}, net())
    with pytest.raises(pk.ModelMismatchError, match="lacks"):
        pk.sparse.import_shira({k.replace(".0.", ".1."): v for k, v in state.items()}, net())
    with pytest.raises(ValueError, match="shira_weight"):
        pk.sparse.import_shira({"x": torch.ones(1)}, net())
