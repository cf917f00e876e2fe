"""nn.PowerNorm and nn.PowerNormV: the oracles over four training steps, and what users do with a module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from probkernels import nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.nn.steps import module, same_state, state, step
from tests.ops import oracle

ORACLES = {
    "A paper": ({}, oracle.PAPER),
    "B group scaling": ({"num_groups": 2}, oracle.GROUPED),
    "C batch denominators": ({"backward_scale": "batch"}, oracle.BATCH_SCALE),
    "D official": ({"num_groups": 2, "warmup_iters": 2, "compat": "official"}, oracle.OFFICIAL),
}


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(on: torch.device, name: str) -> None:
    settings, expected = ORACLES[name]
    norm = module(**settings).to(on)
    for k in range(1, 5):
        for quantity, value in step(norm, k).items():
            oracle.check(quantity, k, expected, value)
    if name.startswith("D"):
        y = norm.eval()(oracle.inputs(5).to(on))
        torch.testing.assert_close(
            y[0, 0].detach().cpu(), torch.tensor(oracle.OFFICIAL_EVAL_5).double(), rtol=0, atol=1.01e-6
        )


PAD = torch.tensor([[False] * 3, [False, False, True]])  # (B, T): padding at b = 1, t = 2


def test_oracle_e_official_with_padding(on: torch.device) -> None:
    norm = module(num_groups=2, warmup_iters=2, compat="official").to(on)
    for k in range(1, 5):
        for quantity, value in step(norm, k, PAD.to(on)).items():
            oracle.check(quantity, k, oracle.OFFICIAL_PADDED, value)


def test_paper_mode_gives_padding_no_gradient_and_masks_every_mean(on: torch.device) -> None:
    """With one padded row, the state is that of the other five rows alone: unlike the official code."""
    norm, alone = module().to(on), module().to(on)
    for k in range(1, 4):
        x = oracle.inputs(k).to(on).requires_grad_()
        norm(x, PAD.to(on)).backward(oracle.output_grads(k).to(on))
        assert not x.grad[2, 1].any()
        valid = ~PAD.t().to(on)
        alone(oracle.inputs(k).to(on)[valid]).backward(oracle.output_grads(k).to(on)[valid])
        torch.testing.assert_close(norm.running_psi2, alone.running_psi2, rtol=1e-13, atol=0)
        torch.testing.assert_close(norm.running_nu, alone.running_nu, rtol=1e-12, atol=1e-15)


def test_forward_uses_the_state_before_its_own_update() -> None:
    norm = nn.PowerNorm(3, eps=1e-12)
    x = torch.full((5, 3), 7.0)
    torch.testing.assert_close(norm(x), x)  # psi2(0) = 1
    torch.testing.assert_close(norm(x), x / torch.full((3,), 0.9 + 0.1 * 49).sqrt())


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_constant_statistic_is_approached_geometrically(steps: int) -> None:
    norm = nn.PowerNorm(2).double()
    x = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    for _ in range(steps):
        norm(x)
    v = x[0].square()
    torch.testing.assert_close(norm.running_psi2, v + 0.9**steps * (1 - v), rtol=1e-12, atol=0)


def test_warmup_takes_the_cumulative_mean_and_then_the_running_one() -> None:
    norm, xs = nn.PowerNorm(3, warmup_iters=3, eps=1e-12).double(), torch.randn(6, 8, 3, dtype=torch.float64)
    mean_sq = xs.square().mean(1)
    for t in range(1, 7):
        before = norm.running_psi2.clone()
        expected = xs[t - 1] / (mean_sq[t - 1] if t <= 3 else before).sqrt()
        torch.testing.assert_close(norm(xs[t - 1]), expected)
        after = mean_sq[:t].mean(0) if t <= 3 else before.lerp(mean_sq[t - 1], 0.1)
        torch.testing.assert_close(norm.running_psi2, after)


# --- what changes state and what does not ---


@pytest.mark.parametrize("kind", [nn.PowerNorm, nn.PowerNormV])
def test_eval_and_no_grad_leave_the_state(kind: type[torch.nn.Module]) -> None:
    norm = kind(4)
    before = state(norm)
    with torch.no_grad():
        norm(torch.randn(9, 4))
    norm.eval()(torch.randn(9, 4, requires_grad=True)).sum().backward()
    same_state(before, state(norm))


@pytest.mark.parametrize("warmup", [0, 2])
def test_called_twice_before_backward(warmup: int) -> None:
    """The official code raises here. Both calls see nu as it was at their forward; both contributions arrive."""
    norm = module(warmup_iters=warmup)
    x1, x2 = oracle.inputs(1).requires_grad_(), oracle.inputs(2).requires_grad_()
    y1, y2 = norm(x1), norm(x2)
    torch.autograd.backward([y1, y2], [oracle.output_grads(1), oracle.output_grads(2)])
    assert norm.iters.item() == 2
    one = module(warmup_iters=warmup)
    step(one, 1)
    first = one.running_nu.clone()
    oracle_x = oracle.inputs(1).requires_grad_()
    fresh = module(warmup_iters=warmup)
    fresh(oracle_x).backward(oracle.output_grads(1))
    torch.testing.assert_close(x1.grad, oracle_x.grad)
    torch.testing.assert_close(fresh.running_nu, first)
    second = module(warmup_iters=warmup)
    second(oracle.inputs(1))  # moves psi2 alone, so that nu is still 0
    second(oracle.inputs(2)).backward(oracle.output_grads(2))
    torch.testing.assert_close(norm.running_nu, first + second.running_nu)
    torch.testing.assert_close(norm.running_psi2, second.running_psi2)


@pytest.mark.parametrize("reentrant", [False, True], ids=["nonreentrant", "reentrant"])
@pytest.mark.parametrize(
    "settings", [{}, {"num_groups": 2, "warmup_iters": 2}, {"compat": "official", "warmup_iters": 2}]
)
def test_checkpointing_changes_nothing(settings: dict[str, Any], reentrant: bool) -> None:
    """Official code counts the recomputation as a step: iters 6 instead of 3, and another psi2."""

    def train(use_checkpoint: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        norm, other = module(**settings), module(**settings)
        block = torch.nn.Sequential(norm, torch.nn.Tanh(), other)
        grads = []
        for k in range(1, 5):
            x = oracle.inputs(k).requires_grad_()
            y = checkpoint(block, x, use_reentrant=reentrant) if use_checkpoint else block(x)
            y.backward(oracle.output_grads(k))
            grads.append(x.grad)
        return state(block), grads

    (plain_state, plain), (saved_state, saved) = train(False), train(True)
    same_state(plain_state, saved_state)
    for p, s in zip(plain, saved, strict=True):
        assert torch.equal(p, s)


@pytest.mark.parametrize("kind", [nn.PowerNorm, nn.PowerNormV])
def test_checkpointed_twice_before_backward(kind: type[torch.nn.Module]) -> None:
    def train(use_checkpoint: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(0)
        block = torch.nn.Sequential(kind(4).double(), torch.nn.Tanh(), torch.nn.Linear(4, 4).double())
        xs = [oracle.inputs(k).requires_grad_() for k in (1, 2, 3)]
        ys = [checkpoint(block, x, use_reentrant=False) if use_checkpoint else block(x) for x in xs]
        torch.autograd.backward(ys, [oracle.output_grads(k) for k in (1, 2, 3)])
        return state(block), [x.grad for x in xs]

    (plain_state, plain), (saved_state, saved) = train(False), train(True)
    same_state(plain_state, saved_state)
    for p, s in zip(plain, saved, strict=True):
        assert torch.equal(p, s)


@pytest.mark.parametrize("noise", [0, 3], ids=["alone", "among other forwards without gradients"])
def test_reentrant_checkpoints_recompute_with_the_state_of_their_forward(noise: int) -> None:
    """Both forwards run before anything moves, so each gradient is that at the first state."""
    norm = module()
    step(norm, 3)
    alone = [copy.deepcopy(norm), copy.deepcopy(norm)]
    xs = [oracle.inputs(k).requires_grad_() for k in (1, 2)]
    ys = []
    for k, x in enumerate(xs):
        ys.append(checkpoint(norm, x, use_reentrant=True))
        with torch.no_grad():
            for n in range(noise):
                norm(oracle.inputs(1) + n + k + 1)
    torch.autograd.backward(ys, [oracle.output_grads(k) for k in (1, 2)])
    for x, k, other in zip(xs, (1, 2), alone, strict=True):
        expected = oracle.inputs(k).requires_grad_()
        other(expected).backward(oracle.output_grads(k))
        torch.testing.assert_close(x.grad, expected.grad, rtol=1e-13, atol=1e-15)
    assert norm.iters.item() == 3 and len(norm._without_grad) == 2 * noise


def test_reentrant_checkpoints_with_too_many_later_forwards_are_refused() -> None:
    norm = module()
    y = checkpoint(norm, oracle.inputs(1).requires_grad_(), use_reentrant=True)
    with torch.no_grad():
        for k in range(70):
            norm(oracle.inputs(2) + k)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        y.sum().backward()


def test_calls_are_forgotten_with_their_graph() -> None:
    norm = nn.PowerNorm(4)
    for _ in range(20):
        norm(torch.randn(3, 4)).sum().backward()
    assert len(norm._calls) <= 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_bad_batch_does_not_poison_the_state(bad: float) -> None:
    norm = nn.PowerNorm(4)
    norm(torch.randn(8, 4)).sum().backward()
    before = state(norm)
    x = torch.randn(8, 4)
    x[2, 1] = bad
    y = norm(x)
    y.backward(torch.full_like(y, bad))
    after = state(norm)
    assert torch.equal(after["running_psi2"][1], before["running_psi2"][1])
    assert torch.equal(after["running_nu"], before["running_nu"]) or bad == 1e30
    assert all(v.isfinite().all() for v in after.values())
    assert not torch.equal(after["running_psi2"][0], before["running_psi2"][0])


def test_batches_without_a_valid_row() -> None:
    norm = nn.PowerNorm(4, batch_first=True, warmup_iters=3)
    before = state(norm)
    norm(torch.randn(0, 4)).sum().backward()
    norm(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    after = state(norm)
    assert torch.equal(before["running_psi2"], after["running_psi2"]) and not after["running_nu"].any()


def test_autograd_grad_moves_psi2_but_not_nu() -> None:
    norm = nn.PowerNorm(4)
    x = torch.randn(8, 4, requires_grad=True)
    torch.autograd.grad(norm(x).sum(), x)
    assert not norm.running_nu.any() and norm._probe.grad is None


@pytest.mark.parametrize("bad", ["empty", "padding", "nan", "one feature"])
def test_bad_batches_in_warmup_do_not_enter_the_cumulative_mean(bad: str) -> None:
    norm, good = nn.PowerNorm(3, warmup_iters=5).double(), torch.randn(4, 6, 3, dtype=torch.float64)
    x, mask = torch.randn(6, 3, dtype=torch.float64), None
    if bad == "empty":
        x = x[:0]
    elif bad == "padding":
        mask = torch.ones(6, dtype=torch.bool)
    else:
        x[2, 1 if bad == "one feature" else slice(None)] = float("nan")
    for k in range(3):
        norm(x, mask).sum().backward()
        if k < 2:
            norm(good[k]).sum().backward()
            assert norm.iters.item() == k + 1
            torch.testing.assert_close(norm.running_psi2, good[: k + 1].square().mean((0, 1)))
    assert norm.iters.item() == 5  # five forwards: the warm-up is over, also for who continues from here
    before = norm.running_psi2.clone()
    norm(good[2]).sum().backward()
    torch.testing.assert_close(norm.running_psi2, before.lerp(good[2].square().mean(0), 0.1))


def used_batch_statistic(norm: nn.PowerNorm) -> bool:
    x = torch.randn(8, 3)
    batch = x / (x.square().mean(0) + norm.epsilon).sqrt()
    return bool(torch.allclose(norm(x), batch))


def test_warmup_follows_who_writes_iters() -> None:
    """A broadcast of buffers, or a functional call with a fresh state, starts the warm-up anew."""
    norm, x = nn.PowerNorm(3, warmup_iters=2), torch.randn(8, 3)
    assert [used_batch_statistic(norm) for _ in range(3)] == [True, True, False]
    fresh = {name: t.clone() for name, t in nn.PowerNorm(3, warmup_iters=2).named_buffers()}
    y = torch.func.functional_call(norm, fresh, (x,))
    torch.testing.assert_close(y, x / (x.square().mean(0) + norm.epsilon).sqrt())
    assert fresh["iters"].item() == 1 and norm.iters.item() == 3
    assert not used_batch_statistic(norm)
    norm.iters.zero_()
    assert [used_batch_statistic(norm) for _ in range(3)] == [True, True, False]
    norm.iters = torch.ones_like(norm.iters)
    assert [used_batch_statistic(norm) for _ in range(2)] == [True, False]
