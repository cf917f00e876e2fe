"""Penalties, noise and thresholds that keep stochastic units at a rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probkernels import nn


def test_the_penalty_is_least_at_the_rate() -> None:
    p = torch.full((5, 3), 0.1, dtype=torch.float64, requires_grad=True)
    penalty = nn.sparsity_kl(p, 0.1)
    penalty.backward()
    assert penalty.item() / 3 == pytest.approx(0.3250829734, abs=1e-10)
    assert p.grad.abs().max() < 1e-12
    for rate in (0.05, 0.2):
        assert nn.sparsity_kl(torch.full((3,), rate)) > penalty


def test_the_penalty_acts_on_the_mean_of_the_batch() -> None:
    """Not on each example: rows at 0 and 0.2 have the rate 0.1."""
    p = torch.tensor([[0.0], [0.2]], dtype=torch.float64, requires_grad=True)
    nn.sparsity_kl(p, 0.1).backward()
    assert p.grad.abs().max() < 1e-12
    spread = torch.rand(2, 3, 4)
    torch.testing.assert_close(nn.sparsity_kl(spread), nn.sparsity_kl(spread.mean((0, 1))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_probabilities_of_0_and_1_have_a_finite_penalty(dtype: torch.dtype) -> None:
    """Whose gradient brings them back."""
    p = torch.tensor([[0.0, 1.0]], dtype=dtype, requires_grad=True)
    penalty = nn.sparsity_kl(p, 0.25)
    penalty.backward()
    assert penalty.isfinite() and p.grad[0, 0] < -1e4 < 1e4 < p.grad[0, 1]


def test_beta_noise_has_its_mode_mean_and_variance() -> None:
    noise = nn.BetaNoise(0.1, 40.1)
    alpha, beta = noise.alpha, 40.1
    assert alpha == pytest.approx(5.3444, abs=1e-4)
    assert (alpha - 1) / (alpha + beta - 2) == pytest.approx(0.1)
    assert alpha / (alpha + beta) == pytest.approx(0.1176, abs=1e-4)
    assert noise.factor == pytest.approx(5.4931, abs=1e-4)
    assert torch.tensor(noise.factor * (0.1 - 0.5)).sigmoid().item() == pytest.approx(0.1)
    n = nn.beta_noise(torch.zeros(400_000), noise, generator=torch.Generator().manual_seed(0)) / noise.factor + 0.5
    mean = alpha / (alpha + beta)
    variance = mean * (1 - mean) / (alpha + beta + 1)
    third = 2 * (beta - alpha) * variance**1.5 * ((alpha + beta + 1) / (alpha * beta)) ** 0.5 / (alpha + beta + 2)
    for power, expected in ((1, mean), (2, mean**2 + variance), (3, third + 3 * mean * variance + mean**3)):
        error = n.double().pow(power).std() / len(n) ** 0.5
        assert abs(n.double().pow(power).mean() - expected) < 4 * error
    assert n.min() > 0 and n.max() < 1


def test_beta_noise_of_half_precision_and_no_element() -> None:
    assert nn.beta_noise(torch.zeros(3, 2, dtype=torch.float16)).dtype is torch.float16
    assert nn.beta_noise(torch.zeros(0, 4)).shape == (0, 4)
    assert nn.BetaNoise(0.5).factor == 1 and nn.BetaNoise(0.1, scale=2.1972).factor == 2.1972


def test_the_weight_of_l1_follows_the_rate() -> None:
    penalty = nn.AdaptiveL1(0.25, weight=0.1, factor=0.5, tolerance=0.01, most=0.2)
    on, off, right = torch.ones(4, 5), torch.zeros(4, 5), torch.eye(4)
    assert penalty(on).item() == pytest.approx(0.5) and penalty.weight.item() == pytest.approx(0.15)
    penalty(on)
    assert penalty.weight.item() == pytest.approx(0.2)
    penalty(right)
    assert penalty.weight.item() == pytest.approx(0.2)
    penalty(off)
    assert penalty.weight.item() == pytest.approx(0.2 / 1.5)
    penalty.eval()(on)
    assert penalty.weight.item() == pytest.approx(0.2 / 1.5)
    h = torch.ones(4, 5, requires_grad=True)
    penalty(h).backward()
    torch.testing.assert_close(h.grad, torch.full((4, 5), 0.2 / 1.5 / 4))


def test_thresholds_leave_the_rate_on() -> None:
    value = torch.rand(7, 143, generator=torch.Generator().manual_seed(0))
    for rate in (0.01, 0.1, 0.5, 0.9):
        on = (value > nn.threshold_at_rate(value, rate)).sum().item()
        assert on == round(rate * value.numel())
    ties = torch.tensor([0.0, 0.0, 0.0, 0.7])
    assert (ties > nn.threshold_at_rate(ties, 0.5)).sum() == 1
    assert (torch.ones(9) > nn.threshold_at_rate(torch.ones(9), 0.5)).sum() == 0
    assert not (ties > nn.threshold_at_rate(ties, 0.01)).any()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nn.sparsity_kl(torch.zeros(0, 3)), ValueError, "at least one row"),
        (lambda: nn.sparsity_kl(torch.tensor([0.1, 1.5, torch.nan])), ValueError, r"'p'.*1\.5 at \[1\], and 1 more"),
        (lambda: nn.sparsity_kl(torch.tensor([torch.nan])), ValueError, "got nan"),
        (lambda: nn.sparsity_kl(torch.zeros(2), 0.0), ValueError, "'rate'"),
        (lambda: nn.sparsity_kl(torch.zeros(2, dtype=torch.int64)), TypeError, "'p'"),
        (lambda: nn.threshold_at_rate(torch.zeros(0)), ValueError, "'value'"),
        (lambda: nn.threshold_at_rate(torch.tensor([0.1, torch.nan])), ValueError, r"nan at \[1\]"),
        (lambda: nn.beta_noise(torch.zeros(2), nn.BetaNoise(beta=1.0)), ValueError, "'noise.beta'"),
        (lambda: nn.beta_noise(torch.zeros(2), 0.1), TypeError, "'noise'"),
        (lambda: nn.AdaptiveL1(weight=2.0), ValueError, "'weight'"),
        (lambda: nn.AdaptiveL1()(torch.zeros(0, 2)), ValueError, "'h'"),
    ],
)
def test_bad_input(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
