"""Deep kernel machines as estimators: what they learn, their forms of input, what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from probkernels.kernel_methods import (
    DeepKernelMachine,
    DKMClassifier,
    DKMRegressor,
    GaussianLikelihood,
    GramKernel,
    SparseDKM,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
WAVE = np.sin(2 * X[:, 0]) + 0.05 * RNG.normal(size=60)
CLASS = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
SMALL: dict[str, Any] = {"depth": 1, "epochs": 40, "samples": 10, "lr": 3e-2}


@pytest.mark.parametrize("n_inducing", [None, 20])
def test_regression_learns_a_wave_and_knows_its_noise(n_inducing: int | None) -> None:
    model = DKMRegressor(n_inducing, depth=1, kernel="squared_exponential", epochs=60, lr=3e-2).fit(X, WAVE)
    assert isinstance(model.model_, SparseDKM if n_inducing else DeepKernelMachine)
    mean, std = model.predict(X, return_std=True)
    assert model.score(X, WAVE) > 0.95
    assert isinstance(mean, np.ndarray) and mean.shape == std.shape == (60,)
    far = model.predict(X + 50, return_std=True)[1]
    assert far.min() > std.mean()
    assert np.array_equal(model.predict(X[:1]), mean[:1]) or np.allclose(model.predict(X[:1]), mean[:1])


@pytest.mark.parametrize("options", [{}, {"kl": "taylor", "stochastic": True, "batch_norm": "global", "temper": True}])
def test_classification_learns_quadrants(options: dict[str, Any]) -> None:
    model = DKMClassifier(20, **SMALL, **options).fit(X, CLASS)
    probs = model.predict_proba(X)
    assert probs.shape == (60, 2) and np.allclose(probs.sum(1), 1)
    assert list(model.classes_) == ["other", "same"]
    assert model.score(X, CLASS) > 0.8
    assert np.array_equal(model.predict_proba(X), probs)
    again = DKMClassifier(20, **SMALL, **options).fit(X, CLASS)
    assert np.array_equal(again.predict_proba(X), probs)


def test_tensors_and_several_outputs() -> None:
    x, y = torch.from_numpy(X).float(), torch.from_numpy(np.stack([WAVE, 3 + 2 * X[:, 1]], 1)).float()
    model = DKMRegressor(20, **SMALL).fit(x, y)
    mean, std = model.predict(x, return_std=True)
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == std.shape == (60, 2)
    assert (mean[:, 1] - y[:, 1]).abs().mean() < 0.5
    labels = torch.from_numpy(X[:, 0] > 0)
    found = DKMClassifier(None, **SMALL).fit(x, labels).predict(x)
    assert isinstance(found, torch.Tensor) and (found == labels).float().mean() > 0.9


def test_constant_features_and_targets_and_one_point() -> None:
    x = np.concatenate([X, np.full((60, 1), 7.1)], 1)
    mean = DKMRegressor(None, depth=1, epochs=5).fit(x, np.full(60, 4.2)).predict(x)
    assert np.allclose(mean, 4.2)
    one = DKMRegressor(None, depth=1, epochs=5).fit(X[:1], [3.0])
    assert np.allclose(one.predict(X[:1]), 3.0)


def test_parameters_are_those_of_the_constructor() -> None:
    model = DKMRegressor(depth=3, nu=0.1)
    params = model.get_params()
    assert params["depth"] == 3 and params["n_inducing"] == 100
    assert repr(model) == "DKMRegressor(depth=3, nu=0.1)"
    assert model.set_params(nu=2.0).nu == 2.0
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        model.set_params(deph=2)
    base = pytest.importorskip("sklearn.base")
    assert base.clone(model).get_params() == model.get_params()


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "text"),
    [
        (X[:0], WAVE[:0], {}, ValueError, "'X': expected shape .N, D., N >= 1"),
        (X[:, 0], WAVE, {}, ValueError, "X.reshape"),
        (X.astype(np.float16), WAVE, {}, TypeError, "'X': expected dtype float32 or float64"),
        (X.astype(str), WAVE, {}, TypeError, "'X': expected numbers"),
        (np.where(X > 2, np.nan, X), WAVE, {}, ValueError, "'X': expected finite numbers, got nan at"),
        (X, np.where(WAVE > 1, np.inf, WAVE), {}, ValueError, "'y': expected finite numbers, got inf at"),
        (X, WAVE[:-1], {}, ValueError, "'y': expected shape .60,"),
        (X, WAVE, {"n_inducing": 61}, ValueError, "'n_inducing': expected 1 to 60"),
        (X, WAVE, {"nu": 0.0}, ValueError, "'nu': expected a positive number"),
        (X, WAVE, {"nu": [1.0, 1.0, 1.0]}, ValueError, "'nu': expected a number, or one for each of 2"),
        (X, WAVE, {"kernel": "rely"}, ValueError, "did you mean 'relu'"),
        (X, WAVE, {"kl": "none"}, ValueError, "'kl': expected one of"),
        (X, WAVE, {"batch_norm": "batch"}, ValueError, "'batch_norm': expected one of"),
        (X, WAVE, {"scale": "all"}, ValueError, "'scale': expected one of"),
        (X, WAVE, {"n_inducing": None, "stochastic": True}, ValueError, "'stochastic'.*n_inducing"),
        (X, WAVE, {"epochs": 0}, ValueError, "'epochs'"),
    ],
)
def test_bad_input_to_a_regressor(x: Any, y: Any, options: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        DKMRegressor(**{"n_inducing": 10, **options}).fit(x, y)


def test_bad_input_to_a_classifier_and_to_predictions() -> None:
    with pytest.raises(ValueError, match="'y': expected at least two classes, got one"):
        DKMClassifier(10).fit(X, np.zeros(60, dtype=int))
    with pytest.raises(TypeError, match="'y': expected integers, bools or strings, got float64"):
        DKMClassifier(10).fit(X, WAVE)
    with pytest.raises(RuntimeError, match="call fit first"):
        DKMClassifier(10).predict(X)
    model = DKMRegressor(5, depth=0, epochs=1).fit(X, WAVE)
    with pytest.raises(ValueError, match=r"'X': expected shape \(N, 2\), got shape \(60, 1\)"):
        model.predict(X[:, :1])


def test_a_singular_kernel_is_named() -> None:
    points = torch.zeros(4, 2, dtype=torch.float64)
    model = SparseDKM(points, 1, kernel=GramKernel("linear", learn=False), likelihood="gaussian")
    with pytest.raises(ValueError, match=r"'kernel': expected a positive definite matrix.*least eigenvalue"):
        model(points)


def test_the_full_machine_predicts_where_its_noise_would_vanish() -> None:
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, 6)] * 2), -1).reshape(-1, 2)  # targets without noise
    y = np.exp(3 * x[:, 0])
    model = DKMRegressor(None, depth=2, nu=1.0, epochs=40).fit(x, y)
    assert float(model.noise_) >= 1e-4
    assert model.score(x, y) > 0.99
    assert model.predict(x, return_std=True)[1].min() >= 1e-2 * y.std()
    with pytest.raises(ValueError, match=r"'noise': expected a number above least_noise = 0\.0001, got"):
        DeepKernelMachine(3, noise=1e-4)
    assert float(DeepKernelMachine(3, noise=1e-9, learn_noise=False).noise.detach()) == pytest.approx(1e-9)
    assert float(DeepKernelMachine(3, noise=0.1).noise.detach()) == pytest.approx(0.1)


def test_the_noise_of_the_sparse_machine_has_a_floor() -> None:
    """Without one, the likelihood of exactly fitted targets rises as the noise vanishes."""
    likelihood, zero = GaussianLikelihood(0.01), torch.zeros(5, 1, dtype=torch.float64)
    assert float(likelihood.noise.detach()) == pytest.approx(0.01)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        (-likelihood(zero, zero[:, 0], zero).sum()).backward()
        optimizer.step()
    assert 1e-4 <= float(likelihood.noise.detach()) < 1.01e-4
    assert float(GaussianLikelihood(1e-9, least_noise=0.0).noise.detach()) == pytest.approx(1e-9)
    with pytest.raises(ValueError, match=r"'noise': expected a number above least_noise = 0\.0001, got 0\.0001"):
        GaussianLikelihood(1e-4)
    with pytest.raises(ValueError, match="'least_noise'"):
        GaussianLikelihood(least_noise=-1.0)
