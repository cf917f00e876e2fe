"""Fits of a prior against an optimum that is known; the critic against closed forms and finite differences."""

from __future__ import annotations

import math
import signal
from typing import Any

import pytest
import torch
from probkernels.bnn import (
    FixedPoints,
    FlowPrior,
    FunctionalPriorMatcher,
    GaussianPrior,
    HierarchicalPrior,
    TrainingAndBox,
    TrainingSubset,
    energy_distance,
    scaled_mlp,
    sliced_wasserstein,
)
from probkernels.bnn._critic import Critic
from probkernels.kernel_methods import RBF, GPSampler, MLPKernel
from torch import Tensor

X = torch.linspace(-2, 2, 20)[:, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gp(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Linear functions: kernel 0.7^2 x x' + 1.5^2."""
    w, b = (torch.randn(n, 1, generator=generator, dtype=x.dtype) for _ in range(2))
    return 0.7 * w * x[:, 0] + 1.5 * b


def prior_of(*sizes: int, dtype: torch.dtype = torch.float32, std: float = 1.3) -> GaussianPrior:
    return GaussianPrior(scaled_mlp(sizes, dtype=dtype), std, learnable=True)


def matcher_of(prior: Any = None, sampler: Any = gp, points: Any = X, **how: Any) -> FunctionalPriorMatcher:
    how = {"functions": 32, "critic_steps": 5, "width": 20, **how}
    return FunctionalPriorMatcher(prior or prior_of(1, 4, 1), sampler, points, **how)


# --- the critic ---


def test_the_slope_is_the_norm_of_the_gradient() -> None:
    critic = Critic(6, torch.empty(0, dtype=torch.float64), seeded(), 9)
    f = torch.randn(2, 5, 6, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(critic(f).sum(), f)
    torch.testing.assert_close(critic.slope(f), grad.norm(dim=-1))


@pytest.mark.parametrize("penalty", ["gp", "lp"])
def test_the_critic_overshoots_as_predicted(penalty: str) -> None:
    """W1(N(1, I), N(0, I)) = sqrt(10) in 10 dimensions; with a penalty of weight 10 about W (1 + W / 20)."""
    bag = (torch.randn(1, 256, 10, generator=seeded(k)) + 1 - k for k in range(2))
    fresh = (torch.randn(1, 4000, 10, generator=seeded(k + 2)) + 1 - k for k in range(2))
    critic = Critic(10, torch.empty(0), seeded(7), 60)
    critic.fit(*bag, seeded(8), steps=150, lr=0.02, weight=10.0, penalty=penalty, tolerance=0)  # type: ignore[misc]
    exact = math.sqrt(10)
    predicted = exact * (1 + exact / 20)
    with torch.no_grad():
        assert abs(critic.gap(*fresh) - predicted) < 0.25  # type: ignore[misc]


def test_the_critic_stops_at_its_tolerance() -> None:
    f = torch.randn(1, 16, 3, generator=seeded())
    critic = Critic(3, f, seeded(), 8)
    how: dict[str, Any] = {"lr": 0.02, "weight": 10.0, "penalty": "lp"}
    assert critic.fit(f, f, seeded(), steps=30, tolerance=1e9, **how) == 0
    assert critic.fit(f, f, seeded(), steps=30, tolerance=0.0, **how) == 30


def test_gradient_of_the_distance_equals_finite_differences() -> None:
    """With common random numbers and a frozen critic."""
    prior = prior_of(1, 4, 2, dtype=torch.float64)
    matcher = matcher_of(prior, points=X.double())
    critic = Critic(20, X.double(), seeded(), 12)

    def value() -> Tensor:
        return critic.gap(*matcher._draw(X.double(), 8, seeded(3)))

    grads = torch.autograd.grad(value(), list(prior.parameters()))
    for p, grad in zip(prior.parameters(), grads, strict=True):
        entry = p.data
        entry += 1e-6
        high = value().item()
        entry -= 2e-6
        low = value().item()
        entry += 1e-6
        assert abs(float(grad) - (high - low) / 2e-6) < 1e-6 * max(1, abs(high))


# --- the fit ---


def test_a_linear_network_finds_the_stds_of_its_process() -> None:
    """f = w x + b: the optimum is the process's own 0.7 and 1.5."""
    prior = prior_of(1, 1)
    matcher = FunctionalPriorMatcher(prior, gp, X, functions=128, critic_steps=20, width=40)
    before = matcher.distances()
    matcher.fit(30, lr_schedule=lambda done: 1.0 if done < 0.6 else 0.2)
    assert abs(prior.std["0.weight"] - 0.7) < 0.06
    assert abs(prior.std["0.bias"] - 1.5) < 0.2
    after = matcher.distances()
    assert all(after[name] < 0.6 * before[name] for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["gp", "lp"])
def test_a_linear_network_with_the_full_critic(penalty: str) -> None:
    prior = prior_of(1, 1)
    how: dict[str, Any] = {"functions": 256, "critic_steps": 50, "penalty": penalty}
    FunctionalPriorMatcher(prior, gp, X, **how).fit(50, lr_schedule=lambda done: 1.0 if done < 0.6 else 0.2)
    assert abs(prior.std["0.weight"] - 0.7) < 0.05
    assert abs(prior.std["0.bias"] - 1.5) < 0.15


@pytest.mark.parametrize("kind", ["hierarchical", "flow"])
def test_other_priors_are_fitted(kind: str) -> None:
    net = scaled_mlp((1, 1))
    torch.manual_seed(0)
    prior = HierarchicalPrior(net, 3.0, 20.0, learnable=True) if kind == "hierarchical" else FlowPrior(net, 2, std=4.0)
    matcher = FunctionalPriorMatcher(prior, gp, X, functions=64, critic_steps=10, width=30)
    before = matcher.distances(300)["energy"]
    matcher.fit(15)
    assert matcher.distances(300)["energy"] < 0.7 * before


def test_outputs_have_independent_processes_whose_distances_add_up() -> None:
    matcher = matcher_of(prior_of(1, 4, 3))
    f_nn, f_gp = matcher._draw(X, 2000, seeded())
    assert f_nn.shape == f_gp.shape == (3, 2000, 20)
    at_zero = f_gp[:, :, 9]
    assert (torch.corrcoef(at_zero) - torch.eye(3)).abs().max() < 0.1
    critic = Critic(20, X, seeded(), 8)
    each = [critic.gap(f_nn[k : k + 1], f_gp[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(critic.gap(f_nn, f_gp), torch.stack(each).sum())
    assert math.isfinite(matcher.fit(2).wasserstein[-1])


def test_a_fit_repeats_and_goes_on() -> None:
    whole, parts = matcher_of(seed=3), matcher_of(seed=3)
    whole.fit(4, report_every=2)
    parts.fit(3)
    parts.fit(1, report_every=1)  # reports do not change the fit
    assert whole.report.wasserstein == parts.report.wasserstein
    assert [step for step, _ in whole.report.distances] == [2, 4]
    assert whole.report.distances[-1] == parts.report.distances[-1]


def test_ctrl_c_keeps_what_is_learned() -> None:
    prior = prior_of(1, 4, 1)
    count = 0

    def sampler(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        nonlocal count
        count += 1
        if count == 5:  # two draws in each iteration: in the third one
            signal.raise_signal(signal.SIGINT)
        return gp(x, n, generator)

    start = prior.std["0.weight"].item()
    report = matcher_of(prior, sampler).fit(50)
    assert not report.complete
    assert len(report.wasserstein) == 3
    assert prior.std["0.weight"].item() != start


def test_hyperpriors_and_random_points() -> None:
    sampler = GPSampler(RBF, {"lengthscale": torch.distributions.LogNormal(0.0, 0.5)})
    report = matcher_of(prior_of(1, 4, 1), sampler, TrainingAndBox(X, 10)).fit(2)
    assert all(map(math.isfinite, report.wasserstein))


# --- measurement sets ---


def test_measurement_sets() -> None:
    x = torch.randn(50, 3, generator=seeded())
    assert FixedPoints(x)(seeded()) is x
    subset = TrainingSubset(x, 20)(seeded())
    assert all((x == row).all(1).any() for row in subset)
    assert len(subset.unique(dim=0)) == 20
    points = TrainingAndBox(x, 40, 0.7, others=x + 5)(seeded())
    assert points.shape == (40, 3)
    assert all((x == row).all(1).any() for row in points[:28])
    low, high = x.amin(0), x.amax(0) + 5
    assert ((points[28:] >= low) & (points[28:] <= high)).all()
    assert (points[28:] > x.amax(0)).any()
    assert not torch.equal(points, TrainingAndBox(x, 40, 0.7, others=x + 5)(seeded(1)))


# --- bad input ---

NAN = torch.full((3, 1), math.nan)
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: matcher_of(GaussianPrior(scaled_mlp((1, 1)))), ValueError, "argument 'prior': .*learnable"),
    (lambda: matcher_of("prior"), TypeError, "argument 'prior': expected a Prior"),
    (lambda: matcher_of(sampler=3), TypeError, "argument 'gp_sampler'"),
    (lambda: matcher_of(points=[1.0]), TypeError, "argument 'measurement'"),
    (lambda: matcher_of(points=torch.ones(0, 1)), ValueError, "at least one measurement point"),
    (lambda: matcher_of(points=lambda generator: torch.ones(0, 1)), ValueError, "at least one measurement point"),
    (lambda: matcher_of(points=torch.ones(3)), ValueError, "makes a column"),
    (lambda: matcher_of(points=X.half()), TypeError, "argument 'x'"),
    (lambda: matcher_of(points=X.double()), TypeError, "argument 'measurement': expected points of torch.float32"),
    (lambda: matcher_of(points=NAN), ValueError, "argument 'x'.*nan"),
    (lambda: matcher_of(penalty="pg"), ValueError, "argument 'penalty'"),
    (lambda: matcher_of(functions=1), ValueError, "argument 'functions'"),
    (lambda: matcher_of(penalty_weight=0.0), ValueError, "argument 'penalty_weight'"),
    (lambda: matcher_of().fit(0), ValueError, "argument 'steps'"),
    (lambda: matcher_of(sampler=lambda x, n, generator: torch.ones(n, 3)).fit(1), ValueError, "argument 'gp_sampler'"),
    (lambda: matcher_of(sampler=lambda x, n, g: torch.full((n, 20), math.nan)).fit(1), ValueError, "gp_sampler.*nan"),
    (lambda: TrainingSubset(X, 21), ValueError, "argument 'points'"),
    (lambda: TrainingAndBox(X, 100), ValueError, "argument 'points': expected at most 20 training inputs"),
    (lambda: TrainingAndBox(X, 10, 1.5), ValueError, "argument 'share'"),
    (lambda: TrainingAndBox(X, 10, others=torch.ones(2, 2)), ValueError, "argument 'others'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_distances_of_a_wide_network_are_least_at_the_stds_of_its_process() -> None:
    """erf, one hidden layer: the limit is the arc-sine kernel with the network's own standard deviations."""
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
    truth = {"0.weight": 1.5, "0.bias": 0.7, "2.weight": 1.2, "2.bias": 0.01}
    kernel = MLPKernel(1, "erf", w_std=truth["0.weight"], b_std=truth["0.bias"], last_w_std=truth["2.weight"])
    process = GPSampler(kernel)(x, 1000, seeded(1))

    def distances(**changed: float) -> tuple[float, float]:
        prior = GaussianPrior(scaled_mlp((1, 100, 1), "erf", dtype=torch.float64), {**truth, **changed})
        drawn = prior.sample_functions(x, 1000, seeded())[..., 0]  # common random numbers
        return float(sliced_wasserstein(drawn, process, 64, seeded(2))), float(energy_distance(drawn, process))

    least = distances()
    assert least[0] < 0.08 and abs(least[1]) < 0.01
    for name in ("0.weight", "0.bias", "2.weight"):
        for factor in (0.4, 2.5):
            assert all(other > one for one, other in zip(least, distances(**{name: factor * truth[name]}), strict=True))
