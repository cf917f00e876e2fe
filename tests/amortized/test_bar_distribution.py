"""The bar distribution: printed values, quadrature, inverses, samples, gradients, torch's protocol, errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from probkernels.amortized import BarDistribution, quantile_borders
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from tests.ops.test_bar_log_prob import BORDERS, BOUNDED, FULL, LOGITS, Y

BARS, BOX = BarDistribution(LOGITS, BORDERS), BarDistribution(LOGITS, BORDERS, "bounded")
TAILS = ("half_normal", "bounded")


def exact(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor, *values: float) -> None:
    """To all printed digits."""
    torch.testing.assert_close(got, exact(*values).reshape(got.shape), rtol=0, atol=1.5e-10)


def random(*batch: int, bars: int = 6, tails: str = "half_normal") -> BarDistribution:
    borders = torch.cat([torch.zeros(1), torch.rand(bars) + 0.1]).double().cumsum(0) - 2
    return BarDistribution(torch.randn(*batch, bars, dtype=torch.float64), borders, tails)


def test_printed_densities_and_moments() -> None:
    """Computed with scipy's quadrature."""
    close(-BARS.log_prob(Y), *FULL)
    close(-BOX.log_prob(Y[1:5]), *BOUNDED)
    close(torch.stack([BARS.mean, BARS.variance, BARS.entropy()]), 0.5798836260, 3.3999788048, 1.7086025967)
    close(torch.stack([BOX.mean, BOX.variance]), 0.375, 1.234375)
    close(BARS.variance + BARS.mean**2, 3.7362438244)
    assert BARS.mode == BOX.mode == 0.75 and torch.equal(BARS.stddev, BARS.variance.sqrt())


def test_printed_probabilities_and_quantiles() -> None:
    found = BARS.cdf(exact(-2, -1.5, -1, 0, 1, 3, 5))
    close(found, 0.05, 0.0735932311, 0.1, 0.3666666667, 0.8, 0.9, 0.9645312898)
    close(BARS.icdf(exact(0.025, 0.5, 0.9, 0.975)), -2.7055105434, 0.5, 3.0, 5.5489810450)
    close(BARS.quantile([0.025, 0.5]), -2.7055105434, 0.5)


def test_printed_improvements() -> None:
    found = BARS.expected_improvement(exact(-3, -1.5, 0, 0.8, 2))
    close(found, 3.5920373896, 2.1548421898, 0.9315115013, 0.5251781680, 0.2998342552)
    found = BARS.probability_of_improvement(exact(-3, 0, 0.8, 2))
    close(found, 0.9822656449, 0.6333333333, 0.32, 0.1471864622)


@pytest.mark.parametrize("bars", [2, 5])
@pytest.mark.parametrize("tails", TAILS)
def test_statistics_equal_quadrature(tails: str, bars: int) -> None:
    one = random(bars=bars, tails=tails)
    b = one.borders.tolist()
    ends = (b[0], b[-1]) if tails == "bounded" else (b[1] - 30, b[-2] + 30)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(30))

    def integral(function: Callable[[Tensor], Tensor], first: float = ends[0], last: float = ends[1]) -> float:
        """By Gauss and Legendre, between borders and a grid."""
        grid = np.linspace(*ends, 41).tolist()
        cuts = exact(*sorted({first, *(c for c in (*b, *grid) if first < c < last), last}))
        y = cuts[:-1, None] + cuts.diff()[:, None] * (nodes + 1) / 2
        return float((function(y) * one.log_prob(y).exp() * weights * cuts.diff()[:, None] / 2).sum())

    assert integral(torch.ones_like) == pytest.approx(1, abs=1e-9)
    mean = integral(lambda y: y)
    assert one.mean.item() == pytest.approx(mean, abs=1e-8)
    assert one.variance.item() == pytest.approx(integral(lambda y: (y - mean) ** 2), abs=1e-8)
    surprise = integral(lambda y: -one.log_prob(y))
    assert one.entropy().item() == pytest.approx(surprise, abs=1e-8)
    for best in (b[0] - 0.5, b[1] + 0.01, b[-1] + 0.2):
        more, less = max(best, ends[0]), min(best, ends[1])
        gain = integral(lambda y, best=best: y - best, more) if more < ends[1] else 0.0
        loss = integral(lambda y, best=best: best - y, ends[0], less) if less > ends[0] else 0.0
        assert one.expected_improvement(best).item() == pytest.approx(gain, abs=1e-8)
        assert one.expected_improvement(best, maximize=False).item() == pytest.approx(loss, abs=1e-8)
        both = one.probability_of_improvement(best) + one.probability_of_improvement(best, maximize=False)
        assert both.item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("tails", TAILS)
def test_icdf_inverts_cdf(tails: str) -> None:
    bars = random(3, 2, tails=tails)
    u = torch.linspace(1e-9, 1 - 1e-9, 201, dtype=torch.float64)[:, None, None].expand(-1, 3, 2)
    y = bars.icdf(u)
    assert (y.diff(dim=0) > 0).all()
    torch.testing.assert_close(bars.cdf(y), u, rtol=0, atol=1e-13)
    ends = bars.icdf(exact(0, 1)[:, None, None]).amin((1, 2)), bars.icdf(exact(0, 1)[:, None, None]).amax((1, 2))
    expected = exact(-math.inf, math.inf) if tails == "half_normal" else bars.borders[[0, -1]]
    assert (bars.borders[0] <= ends[0][0] or tails == "half_normal") and ends[1][1] <= expected[1]
    torch.testing.assert_close(ends, (expected, expected), rtol=0, atol=1e-14)
    outside = bars.cdf(exact(-1e9, 1e9)[:, None, None])
    torch.testing.assert_close(outside, exact(0, 1)[:, None, None].expand(2, 3, 2))


def test_half_of_a_tail_lies_outside_of_its_bar() -> None:
    bars = random(4)
    torch.testing.assert_close(bars.cdf(bars.borders[0]), bars.probs[:, 0] / 2)
    torch.testing.assert_close(bars.probability_of_improvement(bars.borders[-1]), bars.probs[:, -1] / 2)


@pytest.mark.parametrize("bars", [BARS, BOX], ids=TAILS)
def test_samples_follow_the_cdf(bars: BarDistribution) -> None:
    samples = bars.sample((4000,))
    assert stats.kstest(samples.numpy(), lambda y: bars.cdf(torch.from_numpy(y)).numpy()).pvalue > 0.01


def test_samples_have_the_implicit_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """dy = -(dF / d theta) / density, in logits and borders."""
    logits, borders = (t.clone().requires_grad_() for t in (LOGITS.expand(3, 4), BORDERS))
    u = torch.rand(50, 3, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: u.clone())
    bars = BarDistribution(logits, borders)
    y = bars.rsample((50,))
    got = torch.autograd.grad(y.sum(), (logits, borders))
    fixed = y.detach()
    surrogate = -bars.cdf(fixed) / bars.log_prob(fixed).exp().detach()
    for one, other in zip(got, torch.autograd.grad(surrogate.sum(), (logits, borders)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not bars.sample((2,)).requires_grad


@pytest.mark.parametrize("tails", TAILS)
def test_derivatives(tails: str) -> None:
    """Of everything, in logits, borders and values of every part."""
    y = exact(-1.7, 0.1, 0.9, 2.1)

    def everything(logits: Tensor, borders: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        bars = BarDistribution(logits, borders, tails)
        found = (bars.mean, bars.variance, bars.entropy(), bars.probs, bars.cdf(y), bars.log_prob(y))
        return *found, bars.icdf(exact(0.03, 0.4, 0.97)), *(
            f(y, side) for f in (bars.expected_improvement, bars.probability_of_improvement) for side in (True, False)
        )  # fmt: skip

    inputs = [t.clone().requires_grad_() for t in (LOGITS, BORDERS, y)]
    assert torch.autograd.gradcheck(everything, inputs, fast_mode=True)


def test_a_bar_without_probability() -> None:
    logits = LOGITS.clone()
    logits[[0, 2]] = -math.inf
    logits.requires_grad_()
    bars = BarDistribution(logits, BORDERS)
    assert bars.log_prob(exact(0.75)) == -math.inf and bars.cdf(exact(-1)) == 0
    u = exact(0.1, 2 / 3, 0.9)
    torch.testing.assert_close(bars.cdf(bars.icdf(u)), u)
    total = bars.mean + bars.variance + bars.entropy() + bars.expected_improvement(0.2) + bars.icdf(u).sum()
    (grad,) = torch.autograd.grad(total, logits)
    assert grad.isfinite().all() and not grad[[0, 2]].any()


def test_shapes_expansion_and_more_values_than_rows() -> None:
    bars = random(3, 2)
    assert (bars.batch_shape, bars.event_shape, bars.rsample((4,)).shape) == ((3, 2), (), (4, 3, 2))
    wide = bars.expand((5, 3, 2))
    assert wide.batch_shape == (5, 3, 2) and wide.mean.shape == wide.sample().shape == (5, 3, 2)
    y = bars.sample((5,))
    for name in ("log_prob", "cdf"):
        rows = torch.stack([getattr(bars, name)(one) for one in y])
        torch.testing.assert_close(getattr(bars, name)(y), rows)
        torch.testing.assert_close(getattr(wide, name)(y), rows)
        torch.testing.assert_close(getattr(bars, name)(y[0, :1, :1]), getattr(bars, name)(y[0, :1, :1].expand(3, 2)))
    one = BarDistribution(bars.logits[:, :1], bars.borders)  # batch (3, 1)
    assert one.log_prob(y[0]).shape == one.cdf(y).shape[1:] == one.icdf(torch.rand(3, 2)).shape == (3, 2)
    assert bars.quantile(0.5).shape == (3, 2) and bars.quantile([0.1, 0.2, 0.3]).shape == (3, 3, 2)
    assert random(0).mean.shape == random(0).log_prob(y[0, 0, 0]).shape == (0,)


def test_what_torch_expects_of_a_distribution() -> None:
    assert BARS.support is constraints.real and BOX.support.check(Y).tolist() == [False, True, True, True, True, False]
    assert BARS.has_rsample and "logits: torch.Size([4])" in repr(BARS)
    around = torch.distributions.Independent(random(3, 2), 1)
    assert around.log_prob(around.sample()).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_logits(dtype: torch.dtype) -> None:
    bars = BarDistribution(LOGITS.to(dtype), BORDERS.float())
    truth = BarDistribution(LOGITS.to(dtype).double(), BORDERS)
    assert bars.mean.dtype == bars.sample().dtype == bars.log_prob(Y.float()).dtype == torch.float32
    torch.testing.assert_close(bars.log_prob(Y.float()), truth.log_prob(Y).float())
    torch.testing.assert_close(bars.variance, truth.variance.float())


def test_quantile_borders() -> None:
    """The last 2 of 17 are left out before they are sorted."""
    samples = torch.cat([torch.arange(15.0).flip(0), torch.tensor([99.0, -99.0])])
    assert quantile_borders(samples, 5).tolist() == [0, 2.5, 5.5, 8.5, 11.5, 14]
    assert quantile_borders(torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 3.0]), 3).tolist() == [1, 1.5, 3]
    wide = quantile_borders(exact(-1.7e308, 1.7e308, -1.6e308, 1.6e308), 2)
    assert wide.isfinite().all()
    for samples, text in [
        (torch.ones(3), "at least 4 samples, one for each bar, got 3"),
        (torch.ones(9), "two different numbers, got 1.0 only"),
        (torch.tensor([0.0, math.nan, 1, 2]), r"finite numbers, got nan at \[1\]"),
    ]:
        with pytest.raises(ValueError, match=text):
            quantile_borders(samples, 4)
    with pytest.raises(TypeError, match="'samples'"):
        quantile_borders([1.0, 2.0], 2)  # type: ignore[arg-type]


def test_wrong_values() -> None:
    for call, text in [
        (lambda: BarDistribution(LOGITS, BORDERS.flip(0)), r"'borders': expected rising numbers, got 1.0 at \[1\]"),
        (lambda: BarDistribution(LOGITS * math.nan, BORDERS), r"'logits': .* got largest entry nan"),
        (lambda: BarDistribution(LOGITS[:1], BORDERS[:2]), "at least two bars"),
        (lambda: BOX.log_prob(Y), r"'value': .*bounded support \[-2, 3\], got -4.0 at \[0\], and 1 more"),
        (lambda: BARS.log_prob(exact(0, math.nan)), r"'value': expected numbers, got nan at \[1\]"),
        (lambda: BARS.cdf(exact(math.nan)), "'value': expected numbers"),
        (lambda: BARS.icdf(exact(0.5, 1.5)), r"probabilities in \[0, 1\], got 1.5 at \[1\]"),
        (lambda: BARS.expected_improvement(math.inf), "'best'"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    unchecked = BarDistribution(LOGITS, BORDERS, "bounded", validate_args=False)
    assert unchecked.log_prob(exact(-4.0, math.nan)).tolist()[0] == -math.inf
    one = BarDistribution(torch.zeros(1), torch.tensor([0.0, 2.0]), "bounded")
    assert one.log_prob(torch.tensor(0.5)) == -math.log(2) and one.mean == 1
