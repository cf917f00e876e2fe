"""The kernel estimate of the Bayes error: closed forms, known values, symmetries; bandwidths; protected images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels.uncertainty import BayesErrorAscent, kernel_bandwidth, kernel_bayes_error, mix
from torch import Tensor

from tests.tolerances import ELEMENTWISE, assert_close


@pytest.fixture
def moons() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    x, y = datasets.make_moons(200, noise=0.2, random_state=0)
    return torch.from_numpy(x), torch.from_numpy(y)


# --- the estimate ---


def test_hand_computed() -> None:
    x, labels = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64), torch.tensor([0, 0, 1])
    expected = torch.tensor([0.0179862100, 0.1824255238, 0.0], dtype=torch.float64)
    errors = kernel_bayes_error(x, labels, sigma=1.0, reduction="none")
    torch.testing.assert_close(errors, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(kernel_bayes_error(x, labels, 1.0), expected.mean(), rtol=0, atol=1e-10)
    torch.testing.assert_close(kernel_bayes_error(x, labels, 1.0, "sum"), expected.sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("sigma", "expected"), [(0.01, 2e-5), (0.1, 0.03582), (0.3, 0.11088), (1.0, 0.34499), (1e3, 0.49748)]
)
def test_moons(moons: tuple[Tensor, Tensor], sigma: float, expected: float, dtype: torch.dtype) -> None:
    """The form with 1e-8 in the denominator gives 0.67688 for the smallest width, which no two classes can have."""
    x, labels = moons
    assert abs(float(kernel_bayes_error(x.to(dtype), labels, sigma)) - expected) < 1e-5
    limit = float(kernel_bayes_error(x.to(dtype), labels, 1e6))
    assert math.isclose(limit, 99 / 199, rel_tol=1e-6)


@pytest.mark.parametrize(("sigma", "expected"), [(0.05, 0.1623), (0.1, 0.1639), (0.2, 0.1685), (0.4, 0.1846)])
def test_two_gaussians(sigma: float, expected: float) -> None:
    """Their Bayes error is 0.1587; a wide kernel gives more."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4000) % 2
    x = torch.randn(4000, 1, generator=generator, dtype=torch.float64) + (2 * labels - 1)[:, None]
    error = float(kernel_bayes_error(x, labels, sigma))
    assert abs(error - expected) < 0.015  # of another sample
    assert abs(error - 0.1587) < 0.04


def test_gradient(moons: tuple[Tensor, Tensor]) -> None:
    x, labels = moons[0][:30].clone().requires_grad_(), moons[1][:30]
    torch.autograd.gradcheck(lambda t: kernel_bayes_error(t, labels, 0.3), x)
    (grad,) = torch.autograd.grad(kernel_bayes_error(x, labels, 0.3), x)
    kernel = (-(x[:, None] - x).square().sum(2) / (2 * 0.3**2)).exp() * (1 - torch.eye(30))
    shares = kernel @ torch.nn.functional.one_hot(labels).double() / kernel.sum(1, keepdim=True)
    (expected,) = torch.autograd.grad((1 - shares.amax(1)).mean(), x)
    torch.testing.assert_close(grad, expected, rtol=0, atol=5e-15)
    assert grad.sum(0).abs().amax() < 1e-12 and grad.abs().amax() > 1e-3


def test_symmetries_and_range() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (120,), generator=generator)
    error = kernel_bayes_error(x, labels, 0.7, "none")
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(120, generator=generator)
    for got in (
        kernel_bayes_error(x @ rotation + 5, labels, 0.7, "none"),
        kernel_bayes_error(3 * x, labels, 2.1, "none"),
        kernel_bayes_error(x, torch.tensor([1, 2, 0])[labels], 0.7, "none"),
        kernel_bayes_error(x[order], labels[order], 0.7, "none")[order.argsort()],
        kernel_bayes_error(x / x.abs().amax() * 9, labels, float(0.7 / x.abs().amax()), "none", normalize=True),
        kernel_bayes_error(x, labels, 0.7, "none", tile=7, classes=5),
    ):
        torch.testing.assert_close(got, error, rtol=1e-10, atol=1e-10)
    assert (error >= 0).all() and (error <= 2 / 3 + 1e-12).all()


def test_identical_points_give_the_share_of_the_others() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    errors = kernel_bayes_error(torch.full((6, 3), 0.7), labels, 0.2, "none")
    assert_close(errors, torch.tensor([0.6, 0.6, 0.6, 0.4, 0.4, 0.4]), torch.float32, ELEMENTWISE)
    normalized = kernel_bayes_error(torch.zeros(6, 3), labels, 0.2, "none", normalize=True)
    assert_close(normalized, errors, torch.float32, ELEMENTWISE)


def test_under_transforms() -> None:
    x, labels = torch.randn(3, 20, 2, dtype=torch.float64), torch.arange(20) % 2
    batched = torch.func.vmap(torch.func.grad(lambda t: kernel_bayes_error(t, labels)))(x)
    for got, one in zip(batched, x, strict=True):
        one.requires_grad_()
        torch.testing.assert_close(got, *torch.autograd.grad(kernel_bayes_error(one, labels), one))


# --- bandwidths ---


def test_bandwidths() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    assert kernel_bandwidth(x, neighbors=1) == pytest.approx(2.0)
    assert kernel_bandwidth(x, neighbors=99) == pytest.approx(14.0)  # of the farthest: 15, 14, 12, 8, 15
    assert kernel_bandwidth(x, "median") == pytest.approx(6.0)  # the lower one of 6 and 7


def test_bandwidth_of_more_points_than_a_block() -> None:
    x = torch.randn(700, 3, generator=torch.Generator().manual_seed(0)) + 50
    distance = torch.cdist(x.double(), x.double()).sort(1).values
    assert kernel_bandwidth(x) == pytest.approx(float(distance[:, 5].median()), rel=1e-9)
    assert kernel_bandwidth(2 * x) == pytest.approx(2 * kernel_bandwidth(x), rel=1e-6)
    twice = torch.cat([x, x])
    assert 0 < kernel_bandwidth(twice, neighbors=1) <= float(distance[:, 1].amin()) * (1 + 1e-6)


# --- mixtures ---


def test_mix_takes_exactly_the_share() -> None:
    clean, protected = torch.zeros(10, 3, 2), torch.ones(10, 3, 2)
    mixed, chosen = mix(clean, protected, 0.3, torch.Generator().manual_seed(1))
    assert chosen.sum() == 3 and torch.equal(mixed, chosen[:, None, None].float().expand(10, 3, 2))
    again, _ = mix(clean, protected, 0.3, torch.Generator().manual_seed(1))
    assert torch.equal(mixed, again)
    assert not mix(clean, protected, 0.0)[0].any() and mix(clean, protected, 1.0)[0].all()


# --- protection ---


def images(count: int = 80, size: int = 6) -> tuple[Tensor, Tensor]:
    """Two classes that differ in their first pixels, with some pixels at the bounds."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.rand(count, 1, size, size, generator=generator), torch.arange(count) % 2
    x[:, 0, 0] = 0.3 + 0.4 * labels[:, None]
    x[:, 0, 1, 0], x[:, 0, 1, 1] = 0, 1
    return x, labels


def flat(_: Tensor, __: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.nn.Flatten()


def test_every_step_is_projected_and_the_error_rises() -> None:
    x, labels = images()
    errors: list[float] = []

    def check(step: int, error: float, moved: Tensor) -> None:
        assert step == len(errors)
        errors.append(error)
        assert (moved - x).abs().amax() <= 0.1 + 1e-7 and moved.amin() >= 0 and moved.amax() <= 1

    before = x.clone()
    protected = BayesErrorAscent(flat, eps=0.1, outer=3, inner=8).protect(x, labels, check)
    assert torch.equal(x, before) and not protected.requires_grad and len(errors) == 24
    assert (protected - x).abs().amax() <= 0.1 + 1e-7 and protected.amin() >= 0 and protected.amax() <= 1
    after = float(kernel_bayes_error(protected.flatten(1), labels, normalize=True))
    assert after > errors[0] + 0.1 and errors[-1] > errors[0] + 0.1


def test_a_large_step_of_the_last_update_is_projected() -> None:
    x, labels = images()
    ascent = BayesErrorAscent(flat, eps=0.05, outer=1, inner=1, optimizer=lambda p: torch.optim.SGD(p, lr=1e4))
    protected = ascent.protect(x, labels)
    assert (protected - x).abs().amax() <= 0.05 + 1e-7 and protected.amin() >= 0 and protected.amax() <= 1


def test_a_batch_gives_the_same_and_training_is_repeated() -> None:
    x, labels = images()
    seen: list[Tensor] = []

    def train(inputs: Tensor, _: Tensor) -> torch.nn.Module:
        seen.append(inputs)
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.Dropout(0.5), torch.nn.Tanh())
        return net.double().train()

    x = x.double()
    whole, parts = (BayesErrorAscent(train, outer=2, inner=2, batch_size=b).protect(x, labels) for b in (None, 17))
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)
    assert len(seen) == 4 and torch.equal(seen[0], x) and not torch.equal(seen[1], x)


def test_a_callback_stops_and_sigma_is_found() -> None:
    x, labels = images()
    steps: list[int] = []

    def stop(step: int, error: float, moved: Tensor) -> Tensor:
        steps.append(step)
        return torch.tensor(step == 2)  # a comparison of tensors gives no bool

    BayesErrorAscent(flat, sigma=None, outer=2, inner=2).protect(x, labels, stop)
    assert steps == [0, 1, 2]


def digits() -> tuple[Tensor, Tensor]:
    x, y = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits(return_X_y=True)
    return torch.from_numpy(x).float() / 16, torch.from_numpy(y).long()


def test_digits_lose_their_classes_to_the_estimate() -> None:
    """From below 0.1 to near chance, which is 0.9, in the space of pixels."""
    x, labels = digits()
    x, labels = x[:600], labels[:600]
    errors: list[float] = []
    ascent = BayesErrorAscent(flat, eps=0.25, sigma=0.5, outer=1, inner=60)
    ascent.protect(x, labels, lambda step, error, moved: errors.append(error))
    assert errors[0] < 0.1 and errors[-1] - errors[0] > 0.5


def fit(x: Tensor, y: Tensor) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    ]
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net


@pytest.mark.slow
def test_training_on_protected_digits_alone_fails_and_on_a_mixture_does_not() -> None:
    """The published loss on mixtures does not show at this size; docs/pages/bayes_error.md says so."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[450:], order[:450]
    errors: list[float] = []

    def accuracy(inputs: Tensor, rows: Tensor | slice = slice(None)) -> float:
        return float((fit(inputs[rows], y[train][rows])(x[test]).argmax(1) == y[test]).float().mean())

    ascent = BayesErrorAscent(lambda a, b: fit(a, b)[:-1], eps=0.25, sigma=0.3)
    protected = ascent.protect(x[train], y[train], lambda step, error, moved: errors.append(error))
    mixed, chosen = mix(x[train], protected, 0.5, torch.Generator().manual_seed(0))
    accuracies = {
        "clean": accuracy(x[train]),
        "half": accuracy(x[train], ~chosen),
        "protected": accuracy(protected),
        "mixed": accuracy(mixed),
    }
    assert errors[-1] - errors[0] > 0.35
    assert accuracies["clean"] > 0.94 and accuracies["protected"] < accuracies["clean"] - 0.06
    assert accuracies["half"] > 0.93 and accuracies["mixed"] < accuracies["half"] + 0.02


# --- errors ---

X, Y = torch.rand(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: kernel_bayes_error(X.tolist(), Y), TypeError, "kernel_bayes_error: argument 'features': expected a float"),
    (lambda: kernel_bayes_error(X[:1], Y[:1]), ValueError, "at least two points"),
    (lambda: kernel_bayes_error(X.log().masked_fill(X > 0.5, math.nan), Y), ValueError, "expected finite numbers"),
    (lambda: kernel_bayes_error(X, Y[:4]), ValueError, "argument 'labels': expected shape \\(6,\\)"),
    (lambda: kernel_bayes_error(X, Y.float()), TypeError, "argument 'labels': expected an integer tensor"),
    (lambda: kernel_bayes_error(X, Y - 1), ValueError, "argument 'labels'.*got -1 at \\[0\\]"),
    (lambda: kernel_bayes_error(X, Y, 0.0), ValueError, "argument 'sigma': expected a positive number"),
    (lambda: kernel_bayes_error(X, Y, reduction="avg"), ValueError, "argument 'reduction': expected one of"),
    (lambda: kernel_bandwidth(torch.ones(4, 2)), ValueError, "at least two different points"),
    (lambda: kernel_bandwidth(X, "knn"), ValueError, "argument 'rule'"),
    (lambda: mix(X, X[:3], 0.5), ValueError, "argument 'protected': expected shape"),
    (lambda: mix(X, X.double(), 0.5), TypeError, "argument 'protected': expected the dtype"),
    (lambda: mix(X, X, 1.5), ValueError, "argument 'ratio'"),
    (lambda: BayesErrorAscent("net"), TypeError, "argument 'model_fn': expected a function"),
    (lambda: BayesErrorAscent(flat, eps=0.0), ValueError, "argument 'eps'"),
    (lambda: BayesErrorAscent(flat, bounds=(1.0, 0.0)), ValueError, "argument 'bounds'"),
    (lambda: BayesErrorAscent(flat).protect(255 * X, Y), ValueError, "argument 'images': expected pixels in"),
    (lambda: BayesErrorAscent(flat).protect(X.half(), Y), TypeError, "argument 'images'"),
    (
        lambda: BayesErrorAscent(lambda a, b: None).protect(X, Y),
        TypeError,
        "argument 'model_fn': expected a function that",
    ),
    (
        lambda: BayesErrorAscent(flat, optimizer=lambda p: torch.optim.SGD(p, 1.0, maximize=True)).protect(X, Y),
        ValueError,
        "argument 'optimizer': expected one that minimizes",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=lambda v: None)
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
