"""GP regression: worked values, limits, independence of batching, gradients, evidence, errors."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from probkernels.kernel_methods import GPPosteriorMean, GPRegression, rbf_kernel, rbf_mean
from probkernels.kernel_methods import gp_regression as gp_module
from torch import Tensor

rbf = importlib.import_module("probkernels.ops.rbf_mean")  # the module; ops.rbf_mean is the function

X = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
Y = torch.tensor([-0.5, 0.3, 1.0], dtype=torch.float64)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_the_worked_example() -> None:
    gp = GPPosteriorMean(X, Y, 1.0, 1.0, 0.01)
    expected = torch.tensor([-0.95546636, 0.75020443, 0.90008430], dtype=torch.float64)
    torch.testing.assert_close(gp.weights, expected, atol=1e-8, rtol=0)
    x = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    value, grad = gp.value_and_grad(x)
    assert value.item() == pytest.approx(0.6440731665, abs=1e-10)
    assert grad.item() == pytest.approx(0.5725871056, abs=1e-10)
    (by_autograd,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(grad, by_autograd)
    assert gp.jitter.tolist() == [0.0]


@pytest.mark.parametrize("lengthscale", [1e-3, 1e-9])
def test_a_short_lengthscale_sees_each_point_alone(lengthscale: float) -> None:
    gp = GPPosteriorMean(X, Y, lengthscale, 2.0, 0.5)
    torch.testing.assert_close(gp.mean(X), Y * 2.0 / 2.5, rtol=1e-9, atol=0)
    value, grad = gp.value_and_grad(torch.tensor([[1.0]], dtype=torch.float64))
    assert value.item() == 0 and grad.item() == 0


def test_a_point_with_nan_has_a_prediction_of_nan_alone() -> None:
    gp, x = GPRegression(X, Y, 1.0, 1.0, 0.01), torch.tensor([[math.nan], [0.5]], dtype=torch.float64)
    for noisy in (False, True):
        found, alone = gp.predict(x, noisy=noisy), gp.predict(x[1:], noisy=noisy)
        assert found.mean[0].isnan() and found.scale[0].isnan()
        torch.testing.assert_close((found.mean[1:], found.scale[1:]), (alone.mean, alone.scale))
    with pytest.raises(ValueError, match="NaN or infinity"):
        gp.predict(x, joint=True)


def test_half_precision_is_told_how_to_convert() -> None:
    with pytest.raises(TypeError, match=r"'X': expected dtype float32 or float64.*X\.float\(\) converts it"):
        GPRegression(X.half(), Y.half())


def test_the_mean_ascends_along_its_gradient() -> None:
    points, y = drawn(200, 6), drawn(200, seed=1)
    gp = GPPosteriorMean(points, y, 6.25, 6.25, 0.01)
    lipschitz = float(gp.weights.abs().sum()) * 6.25 / 6.25**2
    x, before = points[:20], gp.mean(points[:20])
    for _ in range(30):
        x = x + min(0.05, 0.9 / lipschitz) * gp.value_and_grad(x)[1]
        now = gp.mean(x)
        assert bool((now >= before - 1e-12).all())
        before = now


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 2), (2, 0, 4, 3), (3, 33, 50, 24)])
def test_tiles_equal_the_whole_kernel(
    dtype: torch.dtype, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rbf, "ROWS", 4)
    monkeypatch.setattr(rbf, "COLUMNS", 16)
    f, m, n, d = shape
    x, points, weights = drawn(f, m, d), drawn(n, d, seed=1) + 3, drawn(f, n, seed=2)
    scale, variance = torch.linspace(0.5, 2, f).double(), torch.linspace(1, 3, f).double()
    k = variance[:, None, None] * (-torch.cdist(x, points).square() / 2 / scale[:, None, None] ** 2).exp()
    pull = (points - x[:, :, None]) / scale[:, None, None, None] ** 2
    expected = (k @ weights[..., None])[..., 0], (k[..., None] * weights[:, None, :, None] * pull).sum(2)
    inputs = [t.to(dtype) for t in (x, points, weights, scale, variance)]
    tolerance = 1e-4 if dtype is torch.float32 else 1e-10
    for differentiable in (False, True):  # by the op, and by torch
        inputs[0].requires_grad_(differentiable)
        for got, right in zip(rbf_mean(*inputs), expected, strict=True):
            torch.testing.assert_close(got, right.to(dtype), atol=tolerance, rtol=tolerance)


def test_far_points_keep_their_digits() -> None:
    """|x|^2 - 2 x z + |z|^2 would lose all of them in float32."""
    x, points = torch.tensor([[1e4]]), torch.tensor([[1e4 - 0.5], [-1e4]])
    value, grad = rbf_mean(x, points, torch.tensor([1.0, 1.0]), 1.0, 1.0)
    assert value.item() == pytest.approx(math.exp(-0.125), rel=1e-6)
    assert grad.item() == pytest.approx(-0.5 * math.exp(-0.125), rel=1e-2)  # a difference of 1e4 in float32


def test_one_set_of_points_serves_all_functions() -> None:
    x, points, weights = drawn(5, 2), drawn(9, 2, seed=1), drawn(3, 9, seed=2)
    value, grad = rbf_mean(x, points, weights, 1.5, 1.0)
    for f in range(3):
        one = rbf_mean(x, points, weights[f], 1.5, 1.0)
        torch.testing.assert_close((value[f], grad[f]), one)


@pytest.mark.parametrize("expand", [True, False])
def test_derivatives(expand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both outputs, with respect to all inputs, on both ways to compute distances."""
    monkeypatch.setattr(rbf, "COLUMNS", 2)
    monkeypatch.setattr(rbf, "can_expand", lambda *_: expand)
    points, weights, scales = drawn(4, 2, seed=1), drawn(2, 4, seed=2), torch.tensor([1.0, 2.0]).double()
    x = torch.cat([drawn(2, 2, 2), points[None, :1].expand(2, -1, -1)], 1)  # the last is one of the points
    inputs = [t.clone().requires_grad_() for t in (x, points, weights, scales, scales)]
    assert torch.autograd.gradcheck(rbf_mean, inputs)
    assert torch.autograd.gradgradcheck(lambda *a: rbf_mean(*a)[0], inputs)


def test_no_more_than_a_tile_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbf, "ROWS", 8)
    monkeypatch.setattr(rbf, "COLUMNS", 16)
    made, kept = [], []
    plain = rbf.exponents
    monkeypatch.setattr(rbf, "exponents", lambda *a: made.append(plain(*a)) or made[-1])
    x = drawn(3, 50, 2).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        value, _ = rbf_mean(x, drawn(70, 2, seed=1), drawn(3, 70, seed=2), 1.0, 1.0)
    assert len(made) == 3 * 7 * 5 and max(t.numel() for t in made) == 8 * 16
    assert max(kept) <= 3 * 70 * 2  # points and weights, no kernels
    value.sum().backward()


def test_batches_equal_single_functions() -> None:
    points, y, x = drawn(20, 3), drawn(4, 20, seed=1), drawn(4, 6, 3, seed=2)
    scale, variance = torch.tensor([0.5, 1.0, 2.0, 4.0]).double(), torch.tensor([1.0, 2.0, 0.5, 6.25]).double()
    gp = GPRegression(points, y, scale, variance, 0.1)
    value, grad = gp.value_and_grad(x)
    spread, evidence = gp.predict(x).stddev, gp.log_evidence()
    assert value.shape == spread.shape == (4, 6) and grad.shape == (4, 6, 3) and evidence.shape == (4,)
    for f in range(4):
        one = GPRegression(points, y[f], float(scale[f]), float(variance[f]), 0.1)
        torch.testing.assert_close((value[f], grad[f]), one.value_and_grad(x[f]))
        torch.testing.assert_close(spread[f], one.predict(x[f]).stddev)
        torch.testing.assert_close(evidence[f], one.log_evidence())


def test_one_y_with_many_hyperparameters() -> None:
    gp = GPPosteriorMean(X, Y, torch.tensor([1.0, 2.0]))
    assert gp.weights.shape == (2, 3) and gp.mean(X).shape == (2, 3)
    torch.testing.assert_close(gp.weights[0], GPPosteriorMean(X, Y, 1.0).weights)


def test_posterior_is_that_of_the_joint_normal() -> None:
    points, y, x = drawn(12, 2), drawn(12, seed=1), drawn(5, 2, seed=2)
    gp = GPRegression(points, y, 1.3, 2.0, 0.1)
    k = rbf_kernel(torch.cat([points, x]), torch.cat([points, x]), 1.3, 2.0)
    noisy = k[:12, :12] + 0.1 * torch.eye(12).double()
    solved = torch.linalg.solve(noisy, torch.cat([y[:, None], k[:12, 12:]], 1))
    torch.testing.assert_close(gp.predict(x).mean, k[12:, :12] @ solved[:, 0])
    covariance = k[12:, 12:] - k[12:, :12] @ solved[:, 1:]
    torch.testing.assert_close(gp.predict(x).variance, covariance.diagonal())
    joint = torch.distributions.MultivariateNormal(torch.zeros(12).double(), noisy)
    torch.testing.assert_close(gp.log_evidence(), joint.log_prob(y))


def test_evidence_carries_gradients_to_hyperparameters() -> None:
    points, y = drawn(8, 2), drawn(2, 8, seed=1)
    hyper = [torch.tensor(v).double().requires_grad_() for v in ([0.9, 1.5], [1.0, 2.0], [0.1, 0.2])]
    assert torch.autograd.gradcheck(lambda *h: GPRegression(points, y, *h).log_evidence(), hyper)
    assert torch.autograd.gradcheck(lambda *h: GPPosteriorMean(points, y, *h).mean(points[:3] + 0.1), hyper)


def test_float32_weights_are_those_of_float64() -> None:
    """In float32 arithmetic this matrix leaves about one digit."""
    points, y = drawn(300, 3), drawn(300, seed=1)
    single = GPPosteriorMean(points.float(), y.float(), 6.25, 6.25, 0.01)
    wide = GPPosteriorMean(points.float().double(), y.float().double(), 6.25, 6.25, 0.01)
    torch.testing.assert_close(single.weights.double(), wide.weights, rtol=1e-6, atol=1e-6)


def test_equal_points() -> None:
    twice, values = torch.cat([X, X]), torch.cat([Y, Y])
    gp = GPPosteriorMean(twice, values, noise=0.02)
    torch.testing.assert_close(gp.mean(X), GPPosteriorMean(X, Y, noise=0.01).mean(X))
    exact = GPPosteriorMean(twice, values, noise=0.0)  # a singular matrix
    assert 0 <= float(exact.jitter) <= 1e-6
    torch.testing.assert_close(exact.mean(X), Y, rtol=1e-5, atol=1e-5)


def test_a_matrix_that_no_jitter_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gp_module, "rbf_kernel", lambda x, z, scale, variance: -torch.ones(len(scale), len(x), len(z)))
    with pytest.raises(ValueError, match="argument 'X': expected a positive definite kernel matrix, got function 0 of"):
        GPPosteriorMean(X, Y)


BAD = [
    ((X.float(), Y), {}, TypeError, "'y'.*dtype of 'X'"),
    ((X.tolist(), Y), {}, TypeError, "'X'"),
    ((X.half(), Y), {}, TypeError, "'X'"),
    ((X[:, 0], Y), {}, ValueError, r"'X': expected shape \(N, D\)"),
    ((X, Y[:, None]), {}, ValueError, "squeeze"),
    ((X, Y * torch.tensor([1, math.nan, 1])), {}, ValueError, r"'y': expected finite numbers, got nan at \[1\]"),
    ((X * math.inf, Y), {}, ValueError, "'X': expected finite"),
    ((X, Y), {"lengthscale": 0.0}, ValueError, "'lengthscale'"),
    ((X, Y), {"lengthscale": torch.tensor([1.0, -1.0])}, ValueError, r"-1.0 at \[1\]"),
    ((X, Y), {"noise": -0.1}, ValueError, "'noise'"),
    ((X, Y), {"variance": torch.ones(2), "noise": torch.ones(3)}, ValueError, "'variance': expected 1 or 3 functions"),
]


@pytest.mark.parametrize(("inputs", "options", "kind", "text"), BAD)
def test_bad_input(inputs: tuple[Tensor, Tensor], options: dict[str, float], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        GPPosteriorMean(*inputs, **options)


def test_bad_arguments_of_therbf_mean() -> None:
    with pytest.raises(ValueError, match="'x': expected shape"):
        rbf_mean(drawn(2, 3), X, Y, 1.0, 1.0)
    with pytest.raises(ValueError, match="'weights'"):
        rbf_mean(X, X, Y[:2], 1.0, 1.0)
    with pytest.raises(ValueError, match="'lengthscale'"):
        rbf_mean(X, X, Y.expand(2, -1), torch.ones(3), 1.0)
    with pytest.raises(TypeError, match="'points'"):
        rbf_mean(X, X.float(), Y, 1.0, 1.0)
    with pytest.raises(ValueError, match="'z'"):
        rbf_kernel(X, drawn(2, 3), 1.0, 1.0)


def test_the_deviation_at_a_point_without_noise_is_positive() -> None:
    for dtype in (torch.float32, torch.float64):
        points = torch.tensor([[0.0], [1.0], [5.0]], dtype=dtype)
        found = GPRegression(points, points[:, 0], noise=0.0).predict(points)
        assert (found.stddev > 0).all() and (found.stddev < 1e-6).all()
        torch.testing.assert_close(found.mean, points[:, 0])


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (3, 3)])
def test_a_kernel_matrix_has_one_lengthscale(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'lengthscale': expected a number"):
        rbf_kernel(X, X, torch.ones(shape, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, torch.tensor([1.0, 0.0])])
def test_lengthscales_are_positive(bad: float | Tensor) -> None:
    with pytest.raises(ValueError, match="'lengthscale': expected positive numbers, got"):
        rbf_mean(X, X, Y.expand(2, -1), bad, 1.0)
    with pytest.raises(ValueError, match="'lengthscale': expected positive numbers, got"):
        rbf_kernel(X, X, bad[:, None, None] if isinstance(bad, Tensor) else bad, 1.0)
