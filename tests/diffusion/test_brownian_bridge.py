"""The Brownian bridge: worked values, laws of its steps, exact sampling with a perfect net, guidance, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from probkernels.diffusion import BrownianBridge
from torch import Tensor, nn

BRIDGE = BrownianBridge()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Perfect(nn.Module):
    """Knows the starts."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = x0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x - self.x0


class Labeled(nn.Module):
    """An output that depends on the condition; counts its calls."""

    calls = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls += 1
        return 0.3 * x + cond.sum(1, keepdim=True) * (1 + t[:, None])


def test_worked_variances() -> None:
    expected = torch.tensor([0.001998, 0.499999501, 0.001998], dtype=torch.float64)
    torch.testing.assert_close(BRIDGE.variance(torch.tensor([0, 499, 999])), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(BrownianBridge(factor=1.0).variance(torch.tensor([0, 499, 999])), expected / 2)
    torch.testing.assert_close(BrownianBridge(max_var=3.0).variance(torch.tensor([0])), expected[:1] * 3)
    found = BRIDGE.posterior_variance(torch.tensor(999), torch.tensor(998)).item()
    assert found == pytest.approx(0.00199600000200, abs=1e-14)


def test_target_is_the_residual() -> None:
    x0, end, noise = drawn(1000, 3), drawn(1000, 3, seed=1), drawn(1000, 3, seed=2)
    x, target = BRIDGE.q_sample(x0, end, torch.arange(1000), noise=noise)
    torch.testing.assert_close(target, x - x0, rtol=0, atol=1e-12)
    silent, _ = BRIDGE.q_sample(x0, end, torch.arange(1000), noise=torch.zeros_like(x0))
    torch.testing.assert_close(silent[0], x0[0], rtol=0, atol=0.01)
    torch.testing.assert_close(silent[-1], end[-1], rtol=0, atol=0.01)


def test_drawn_noise_has_the_variance() -> None:
    zero, t = torch.zeros(20_000, 1), torch.full((20_000,), 300)
    x, _ = BRIDGE.q_sample(zero, zero, t, generator=torch.Generator().manual_seed(0))
    again, _ = BRIDGE.q_sample(zero, zero, t, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    variance = float(BRIDGE.variance(t[:1]))
    assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize(("t", "earlier"), [(999, 998), (999, 500), (500, 499), (700, 3), (1, 0), (999, 0)])
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_a_step_has_the_law_of_the_bridge(t: int, earlier: int, eta: float) -> None:
    """The step is linear in the noise of x and in fresh noise, so unit noises give its mean and its variance."""
    x0, end = torch.full((1, 1), 1.3).double(), torch.full((1, 1), -0.4).double()
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)

    def step(old: Tensor, fresh: Tensor) -> Tensor:
        x, _ = BRIDGE.q_sample(x0, end, torch.tensor([t]), noise=old)
        return BRIDGE.step(x, x0, end, t, earlier, eta=eta, noise=fresh)

    mean = step(zero, zero)
    variance = (step(one, zero) - mean).square() + (step(zero, one) - mean).square()
    n = BRIDGE.m(torch.tensor([earlier]))
    torch.testing.assert_close(mean[0], (1 - n) * x0[0] + n * end[0])
    fresh = BRIDGE.posterior_variance(torch.tensor([t]), torch.tensor([earlier]))
    expected = BRIDGE.variance(torch.tensor([earlier])) - (1 - eta**2) * fresh
    torch.testing.assert_close(variance[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 200, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_a_perfect_net_gives_the_starts(steps: int, eta: float) -> None:
    x0, end = drawn(4, 2), drawn(4, 2, seed=1)
    generator = torch.Generator().manual_seed(0)
    found = BRIDGE.sample(Perfect(x0), end, steps=steps, eta=eta, generator=generator)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-14)


def test_samples_depend_on_the_generator_alone() -> None:
    x, cond = drawn(4, 2), drawn(4, 2, seed=1)

    def draw(seed: int, eta: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return BRIDGE.sample(Labeled(), x, cond, steps=9, eta=eta, generator=generator)

    before = torch.get_rng_state()
    assert torch.equal(draw(0, 0.5), draw(0, 0.5)) and not torch.equal(draw(0, 0.5), draw(1, 0.5))
    assert torch.equal(draw(0, 0.0), draw(1, 0.0))
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(x, drawn(4, 2))


def test_guidance_is_linear_and_has_both_ends() -> None:
    """The net is affine, so the samples are linear in the weight; at 0 and 1 one of both conditions is not used."""
    x, cond, uncond = drawn(4, 2), drawn(4, 2, seed=1), torch.zeros(1, 2).double()

    def draw(guidance: float | None, *conditions: Tensor | None) -> tuple[Tensor, int]:
        net = Labeled()
        given = {"uncond": conditions[1]} if len(conditions) > 1 else {}
        return BRIDGE.sample(net, x, conditions[0], **given, guidance=guidance, steps=5, eta=0.0), net.calls

    alone, null = draw(None, cond)[0], draw(None, uncond)[0]
    one, calls_of_one = draw(1.0, cond, uncond)
    zero, calls_of_zero = draw(0.0, cond, uncond)
    assert torch.equal(one, alone) and torch.equal(zero, null) and calls_of_one == calls_of_zero == 5
    official, calls = draw(-0.5, cond, uncond)
    torch.testing.assert_close(official, null - 0.5 * (alone - null))
    assert calls == 10


def test_float32_and_image_shapes() -> None:
    x0 = drawn(2, 3, 4, 4).float()
    found = BRIDGE.sample(Perfect(x0), torch.zeros_like(x0), steps=20)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-6)


X = torch.zeros(2, 2)
NET = Perfect(X)
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: BrownianBridge(1), ValueError, "'steps'"),
    (lambda: BrownianBridge(edge=0.0), ValueError, "'edge'"),
    (lambda: BrownianBridge(edge=0.5), ValueError, "'edge'"),
    (lambda: BrownianBridge(max_var=-1.0), ValueError, "'max_var'"),
    (lambda: BRIDGE.m(torch.tensor([3, 1000])), ValueError, r"1000 at \[1\]"),
    (lambda: BRIDGE.q_sample(X, X[:1], torch.tensor([0, 1])), ValueError, "'end'"),
    (lambda: BRIDGE.q_sample(X, X.double(), torch.tensor([0, 1])), TypeError, "'end'"),
    (lambda: BRIDGE.q_sample(X.half(), X.half(), torch.tensor([0, 1])), TypeError, "'x0'"),
    (lambda: BRIDGE.q_sample(X, X, torch.tensor([0])), ValueError, "'t'"),
    (lambda: BRIDGE.step(X, X, X, 5, 4), ValueError, "'noise'"),
    (lambda: BRIDGE.step(X, X, X, 4, 5), ValueError, "'earlier'"),
    (lambda: BRIDGE.sample(NET, X, steps=1001), ValueError, "'steps'"),
    (lambda: BRIDGE.sample(NET, X, eta=-0.1), ValueError, "'eta'"),
    (lambda: BRIDGE.sample(NET, X, X, guidance=1.0), ValueError, "'uncond'"),
    (lambda: BRIDGE.sample(NET, X, X, uncond=X), ValueError, "'guidance'"),
    (lambda: BRIDGE.sample(NET, X, X, uncond=X, guidance=math.nan), ValueError, "'guidance'"),
    (lambda: BRIDGE.sample(NET, X, X, uncond=X, guidance=math.inf), ValueError, "'guidance'"),
    (lambda: BRIDGE.step(X, X[:1], X, 5, 4, eta=0.0), ValueError, "'x0'"),
    (lambda: BRIDGE.step(X, X, X[:, :1], 5, 4, eta=0.0), ValueError, "'end'"),
    (lambda: BRIDGE.step(X, X, X, 5, 4, noise=X[:1]), ValueError, "'noise'"),
    (lambda: BRIDGE.step(X, X, X, 5, 4, eta=math.nan, noise=X), ValueError, "'eta'"),
    (lambda: BRIDGE.posterior_variance(torch.tensor(3), torch.tensor(9)), ValueError, "'earlier'"),
    (lambda: BRIDGE.sample(nn.BatchNorm1d(2), X), ValueError, "batch normalization"),
    (lambda: BRIDGE.sample(Perfect(torch.zeros(1, 2, 2)), X), ValueError, "'net'"),
]


@pytest.mark.parametrize(("action", "kind", "text"), BAD)
def test_bad_input(action: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        action()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_times_of_any_integer_dtype_and_noise_of_another_dtype(dtype: torch.dtype) -> None:
    bridge = BrownianBridge(4)
    t = torch.tensor([0, 1, 0, 1])  # as many as the bridge has times: no mask
    assert torch.equal(bridge.m(t.to(dtype)), bridge.m(t))
    x = torch.zeros(4, 2)
    assert all(part.dtype is torch.float32 for part in bridge.q_sample(x, x, t.to(dtype), noise=x.double()))
