"""Coins, subsets, pixels, networks, strokes, populations, and tasks of random sizes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.amortized import (
    BetaBernoulliPrior,
    BNNPrior,
    LotkaVolterraPrior,
    PixelTasks,
    RidgePrior,
    StrokesPrior,
    SubsetPrior,
    TabularBNNPrior,
    TaskPrior,
    TaskSampler,
)
from probkernels.amortized._draws import beta, gamma, student
from scipy import stats
from torch import Tensor

CPU = torch.device("cpu")
PRIORS: list[TaskPrior] = [
    BetaBernoulliPrior(2.0, 3.0),
    RidgePrior(),
    BNNPrior(activation=torch.tanh),
    TabularBNNPrior(6, layers=(3, 4), most_width=20, dropout=0.3, order_y=True),
    StrokesPrior(3, 2, 12),
    LotkaVolterraPrior(most_events=40),
    PixelTasks(torch.rand(4, 5, 5), t_noise=0.09),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_every_prior_keeps_the_protocol(prior: TaskPrior) -> None:
    state = torch.get_rng_state()
    x, y = prior.sample(3, 7, seeded())
    again = prior.sample(3, 7, seeded())
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert torch.equal(state, torch.get_rng_state())
    assert x.dtype == torch.float32 and y.dtype in (torch.float32, torch.int64)
    assert x.shape[:2] == y.shape[:2] == (3, 7) and x.isfinite().all() and y.isfinite().all()
    for n in (0, 1):
        x, y = prior.sample(2, n, seeded())
        assert x.shape[:2] == y.shape[:2] == (2, n) and x.isfinite().all() and y.isfinite().all()
    torch.manual_seed(1)
    assert not torch.equal(prior.sample(2, 20)[0 if "Beta" not in repr(prior) else 1], prior.sample(2, 20)[0])


def test_draws_have_their_laws() -> None:
    size = 200_000
    for found, law in (
        (gamma((1.866, 0.05275), size, seeded(), CPU), stats.gamma(1.866, scale=0.05275)),
        (beta(2.0, 4.0, size, seeded(), CPU), stats.beta(2, 4)),
        (student((size,), 2.1, seeded(), CPU), stats.t(2.1)),
    ):
        assert stats.kstest(found.numpy(), law.cdf).statistic < 0.005


def test_coins() -> None:
    prior = BetaBernoulliPrior(2.0, 3.0)
    _, y = prior.sample(20_000, 6, seeded())
    assert y.dtype == torch.int64 and y.float().mean().item() == pytest.approx(0.4, abs=0.01)
    found = prior.exact_predictive(torch.zeros(len(y), 5, 1), y[:, :5], torch.zeros(len(y), 1, 1)).probs[:, 0]
    for ones in range(6):
        rows = y[:, :5].sum(1) == ones
        assert found[rows].unique().item() == pytest.approx((2 + ones) / 10)
        assert y[rows, 5].float().mean().item() == pytest.approx((2 + ones) / 10, abs=0.05)
    assert prior.exact_predictive(torch.zeros(1, 0, 1), torch.zeros(1, 0), torch.zeros(1, 2, 1)).probs[0, 1] == 0.4


def test_sizes_of_tasks() -> None:
    sampler, generator = TaskSampler(RidgePrior(2)), seeded()
    sizes = [sampler.sizes(generator) for _ in range(3000)]
    contexts, both = [n for n, _ in sizes], [n + m for n, m in sizes]
    assert (min(contexts), max(contexts)) == (3, 46) and (min(both), max(both)) == (6, 49)
    task = TaskSampler(RidgePrior(2), standardize=True).sample(5, seeded(1))
    for known in (task.x_ctx, task.y_ctx):
        torch.testing.assert_close(known.mean(1), torch.zeros_like(known.mean(1)), rtol=0, atol=1e-5)
        torch.testing.assert_close(known.std(1, correction=0), torch.ones_like(known.mean(1)))
    assert task.x_tar.shape[:2] == task.y_tar.shape and task.x_tar.mean(1).abs().max() > 0.01
    flat = TaskSampler(SubsetPrior(torch.ones(60, 1), torch.ones(60)), standardize=True).sample(2)
    assert (flat.x_tar == 0).all() and (flat.y_tar == 0).all()


def test_subsets_hold_each_point_once() -> None:
    x = torch.arange(24.0, dtype=torch.float64).reshape(2, 12, 1)
    prior = SubsetPrior(x, -x, dtype=torch.float64)
    points, values = prior.sample(500, 12, seeded())
    assert torch.equal(values, -points)
    assert all(sorted(row) in (list(range(12)), list(range(12, 24))) for row in points[..., 0].tolist())
    assert points[:, 0, 0].unique().numel() == 24  # both series, in any order
    assert prior.sample(2, 3)[1].shape == (2, 3, 1) and SubsetPrior(x[0], x[0, :, 0]).sample(2, 3)[1].shape == (2, 3)


def test_pixels_make_the_image_again() -> None:
    images = torch.rand(3, 2, 4, 6, generator=seeded(), dtype=torch.float64)
    pixels = PixelTasks(images, dtype=torch.float64)
    x, y = pixels.sample(20, 24, seeded(1))
    assert x.aminmax() == (-1, 1) and y.shape == (20, 24, 2)
    whole, known = pixels.image(x, y)
    assert known.all() and all(((whole[i] - images).abs().amax((1, 2, 3)) < 1e-12).any() for i in range(20))
    part, known = pixels.image(x[:, :5], y[:, :5])
    assert (known.sum((1, 2)) == 5).all()
    torch.testing.assert_close(part, whole * known[:, None])


def test_networks_label_standardized_points() -> None:
    x, y = BNNPrior(8, 64, 3, activation=torch.tanh, dtype=torch.float64).sample(400, 50, seeded())
    torch.testing.assert_close(x.mean(1), torch.zeros(400, 8, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std(1), torch.ones(400, 8, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.equal(y.unique(), torch.arange(3))
    shares = torch.nn.functional.one_hot(y).double().mean(1)  # (400, 3): each data set has its own network
    torch.testing.assert_close(shares.mean(0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.06)
    assert shares.var(0).min() > 3 * (1 / 3 * 2 / 3 / 50)


def test_without_activation_a_network_is_linear_in_its_logits() -> None:
    """One class border, a plane: no point of one side between two of the other once labels are sure."""
    prior = BNNPrior(1, 400, dtype=torch.float64)  # weights this wide: logits of either sign are large
    x, y = prior.sample(100, 40, seeded())
    ordered = y.gather(1, x[..., 0].argsort(1))
    changes = (ordered[:, 1:] != ordered[:, :-1]).sum(1).double()
    curved = BNNPrior(1, 400, activation=lambda h: (5 * h).sin(), dtype=torch.float64)
    x, y = curved.sample(100, 40, seeded())
    ordered = y.gather(1, x[..., 0].argsort(1))
    assert changes.mean() < 3 < (ordered[:, 1:] != ordered[:, :-1]).sum(1).double().mean()


def test_tables_are_balanced_and_padded() -> None:
    x, y = TabularBNNPrior(60, most_width=12).sample(2000, 6, seeded())
    assert (y.sum(1) == 3).all()
    used = (x != 0).any(1)
    count = used.sum(1)
    assert (used == (torch.arange(60) < count[:, None])).all() and count.min() >= 2 and count.max() <= 60
    expected = 2 + np.floor(59 * stats.beta(1, 1.6).ppf((np.arange(20_000) + 0.5) / 20_000)).mean()
    assert count.double().mean().item() == pytest.approx(expected, abs=1.5)
    scaled = TabularBNNPrior(60, most_width=12, scale_by_used=True).sample(2000, 6, seeded())[0]
    torch.testing.assert_close(scaled, x * 60 / count[:, None, None])


@pytest.mark.parametrize("n", [7, 8])
def test_classes_alternate(n: int) -> None:
    plain = TabularBNNPrior(5, most_width=12).sample(50, n, seeded())
    x, y = TabularBNNPrior(5, most_width=12, order_y=True).sample(50, n, seeded())
    assert (y[:, 1:] != y[:, :-1]).all()
    assert n == 7 or 5 < y[:, 0].sum() < 45
    for i in range(50):  # the same points with the same labels
        rows = [sorted(torch.cat([a[i], b[i, :, None].float()], 1).tolist()) for a, b in ((x, y), plain)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("layers", [3, (3, 5)])
def test_tables_are_made_by_their_networks(layers: Any) -> None:
    """Without noise and with a linear activation, y is linear in x; noise and dropout undo it."""
    options: dict[str, Any] = {"layers": layers, "most_width": 10, "classes": False, "dtype": torch.float64}
    options |= {"activation": lambda h: h, "weight_gamma": (50.0, 0.02)}

    def unexplained(**more: Any) -> Tensor:
        x, y = TabularBNNPrior(5, **options, **more).sample(60, 40, seeded())
        torch.testing.assert_close(y.square().mean(1), torch.full((60,), 39 / 40).double(), rtol=0, atol=1e-2)
        return (y[..., None] - x @ (torch.linalg.pinv(x) @ y[..., None])).square().mean((1, 2))

    quiet = (1.0, 1e-9)
    assert unexplained(noise_gamma=quiet).max() < 1e-5
    assert unexplained(noise_gamma=(50.0, 1.0)).min() > 0.3
    some = (50.0, 0.01)
    assert unexplained(noise_gamma=some).mean() < 0.2 < 0.5 < unexplained(noise_gamma=some, dropout=0.95).mean()


def test_strokes() -> None:
    prior = StrokesPrior(blur=0.0, dtype=torch.float64)
    x, y = prior.sample(30, 40, seeded())
    assert all(Counter(row[:25]) == dict.fromkeys(range(5), 5) for row in y.tolist())
    grey = x[x > 0] * 255
    torch.testing.assert_close(grey, grey.round())
    assert grey.round().aminmax() == (200, 254)
    lit = (x > 0).double()
    assert 5 < lit.sum(-1).mean() < 150 and lit.sum(-1).max() < 3 * 26 * 6
    start, end, there = prior._classes(2000, seeded())
    assert start.aminmax() == (2, 25) and end.min() >= 0 and end.max() <= 27
    length = (end - start).norm(dim=-1)
    torch.testing.assert_close(length, length.round())
    assert length.min().round() == 5 and length.max().round() == 20
    torch.testing.assert_close(there.double().mean((0, 1)), torch.tensor([1, 2 / 3, 1 / 3]).double(), rtol=0, atol=0.02)
    blurred = StrokesPrior(dtype=torch.float64).sample(30, 40, seeded())[0]
    assert (blurred > 0).sum() > (x > 0).sum() and (blurred - x).abs().max() < 0.09
    assert blurred.min() >= 0 and blurred.max() <= 1
    free = StrokesPrior(2, None).sample(200, 10, seeded())[1]
    assert free.sum(1).unique().numel() > 4


def test_images_of_a_class_are_alike() -> None:
    x, y = StrokesPrior(blur=0.7, dtype=torch.float64).sample(60, 25, seeded())
    away = torch.cdist(x, x)
    same, apart = y[:, :, None] == y[:, None], ~torch.eye(25, dtype=torch.bool)
    assert away[same & apart].mean() < away[~same].mean()


def test_the_first_event_has_the_probabilities_of_its_rates() -> None:
    prior = LotkaVolterraPrior((50.0, 100.0), most_events=2)
    times, states, lengths = prior.simulate(20_000, seeded())
    assert (lengths == 2).all() and (times[:, 0] == 0).all()
    start = states[:, 0]  # rounded towards 0: half a unit lower
    torch.testing.assert_close(start.mean(0), torch.tensor([49.5, 99.5]).double(), rtol=0, atol=0.05)
    change = states[:, 1] - start
    assert (change.abs().sum(1) == 1).all()
    expected = torch.tensor([50.0, 25.0, 100.0, 50.0]) / 225
    found = torch.stack([(change == torch.tensor(step)).all(1) for step in ([1, 0], [-1, 0], [0, 1], [0, -1])])
    torch.testing.assert_close(found.double().mean(1), expected.double(), rtol=0, atol=0.012)
    rate = (0.02 * start.prod(1) + 0.5 * start[:, 0] + start[:, 1]) * times[:, 1]
    assert stats.kstest(rate.numpy(), "expon").statistic < 0.015


def test_a_series_ends_with_the_death_of_a_population() -> None:
    prior = LotkaVolterraPrior((3.0, 4.0), (0.1, 0.5, 0.4, 0.3), most_events=200)
    times, states, lengths = prior.simulate(200, seeded())
    alive = (states > 0).all(-1)
    for i, length in enumerate(lengths.tolist()):
        assert alive[i, : length - 1].all() and (length == 200 or not alive[i, length - 1])
        assert (states[i, length - 1 :] == states[i, length - 1]).all() and (times[i, 1:length].diff() > 0).all()
    assert (states >= 0).all() and (lengths < 200).double().mean() > 0.5 and states.shape[1] == lengths.max()
    x, y = prior.sample(50, 20, seeded())  # shorter series are simulated anew
    assert all(row.unique().numel() == 20 for row in x[..., 0]) and (x.diff(dim=1) < 0).any() and y.shape == (50, 20, 2)


def test_populations_turn_around_their_equilibrium() -> None:
    """Averages over time of the deterministic system are its equilibrium: 100 predators, 50 prey."""
    times, states, _ = LotkaVolterraPrior(most_events=3000).simulate(30, seeded())
    waits = times.diff(dim=1)[..., None]
    average = (states[:, :-1] * waits).sum((0, 1)) / waits.sum()
    torch.testing.assert_close(average, torch.tensor([100.0, 50.0]).double(), rtol=0.25, atol=0)
    assert math.isfinite(float(times.max()))


ONES = torch.ones(3, 4, 1)


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (ValueError, "'a'", lambda: BetaBernoulliPrior(0.0)),
        (ValueError, "'y_ctx'.*2", lambda: BetaBernoulliPrior().exact_predictive(ONES, 2 * ONES[..., 0], ONES)),
        (TypeError, "'prior': expected an object with sample", lambda: TaskSampler(3)),
        (ValueError, "'most'", lambda: TaskSampler(RidgePrior(), 15, 30)),
        (ValueError, "'n': expected at most 4", lambda: SubsetPrior(ONES, ONES).sample(2, 5)),
        (ValueError, "'y': expected shape", lambda: SubsetPrior(ONES, ONES[:2])),
        (ValueError, "'x': expected finite.*nan", lambda: SubsetPrior(ONES / 0 * 0, ONES)),
        (TypeError, "'images'.*images / 255", lambda: PixelTasks(torch.zeros(2, 3, 3, dtype=torch.uint8))),
        (
            ValueError,
            "'images': expected values on \\[0, 1\\], got 2.0",
            lambda: PixelTasks(torch.full((2, 3, 3), 2.0)),
        ),
        (ValueError, "'images': expected shape", lambda: PixelTasks(torch.zeros(3, 3))),
        (
            ValueError,
            "'x'",
            lambda: PixelTasks(torch.zeros(1, 3, 3)).image(3 * torch.ones(1, 1, 2), torch.ones(1, 1, 1)),
        ),
        (ValueError, "'classes'", lambda: BNNPrior(classes=1)),
        (TypeError, "'activation'", lambda: BNNPrior(activation="tanh")),  # type: ignore[arg-type]
        (ValueError, "'layers'", lambda: TabularBNNPrior(layers=2)),
        (ValueError, "'layers'", lambda: TabularBNNPrior(layers=(4, 3))),
        (ValueError, "'dropout'", lambda: TabularBNNPrior(dropout=1.0)),
        (ValueError, "'noise_gamma'", lambda: TabularBNNPrior(noise_gamma=(1.0, -1.0))),
        (TypeError, "'width_beta': expected two", lambda: TabularBNNPrior(width_beta=2.0)),  # type: ignore[arg-type]
        (ValueError, "'order_y'", lambda: TabularBNNPrior(classes=False, order_y=True)),
        (ValueError, "'shots'", lambda: StrokesPrior(shots=0)),
        (ValueError, "'blur'.*2.0", lambda: StrokesPrior(blur=2.0)),
        (ValueError, "'size'", lambda: StrokesPrior(size=4)),
        (ValueError, "'rates'", lambda: LotkaVolterraPrior(rates=(0.1, 0.1, 0.1, -1.0))),
        (TypeError, "'start'", lambda: LotkaVolterraPrior(start=50.0)),  # type: ignore[arg-type]
        (ValueError, "'n': expected at most 20000", lambda: LotkaVolterraPrior().sample(1, 20_001)),
        (ValueError, "'n'.*die out", lambda: LotkaVolterraPrior((1, 1), (1e-9, 1, 1e-9, 1)).sample(1, 50)),
        (NotImplementedError, "defines no draw", lambda: TaskPrior().sample(1, 1)),
    ],
)
def test_errors_name_the_argument(error: type[Exception], text: str, make: Any) -> None:
    with pytest.raises(error, match=text):
        make()
