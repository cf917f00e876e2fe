"""The data of the functional priors' reproduction, its Gaussian process, and a miniature run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.reproduce.functional_prior import experiment, model
from probkernels.reproduce.functional_prior.records import BOSTON, PRIORS, TOY, Drawn, judged, matched


def test_functions_have_noise_and_a_gap() -> None:
    for number in range(2):
        toy = model.draw(0, number)
        assert toy.x.shape == toy.y.shape == (40, 1)
        assert toy.x.abs().min() >= 1.2
        assert toy.x.abs().max() <= 3
    nearest = (toy.x - model.GRID.T).abs().argmin(1)
    noise = (toy.y[:, 0] - toy.truth[nearest]).var()
    assert 0.04 < noise < 0.25


def test_figures_equal_torch() -> None:
    mean, variance, truth = torch.randn(9), torch.rand(9) + 0.1, torch.randn(9)
    rmse, nll = experiment.figures(mean, variance, truth)
    expected = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(truth).mean()
    assert math.isclose(nll, float(expected), rel_tol=1e-5)
    assert math.isclose(rmse, float((mean - truth).square().mean().sqrt()), rel_tol=1e-5)


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BURN_IN", 5), ("SAMPLES", 4), ("BOSTON_ITERATIONS", 1), ("BOSTON_EVERY", 1)):
        monkeypatch.setattr(experiment, name, value)


def test_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    monkeypatch.setattr(experiment, "SETS", 1)
    found = experiment.work(0, 2, 1, lambda amount: None)
    assert len(matched(found, TOY)[0].wasserstein) == 2
    assert all(len(judged(found, TOY, prior)) == 1 for prior in PRIORS)
    assert len(next(r for r in found if isinstance(r, Drawn)).grid) == 64


def test_a_short_run_on_boston(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a made-up file: the test rows are those of the split, and the scale is that of the training rows."""
    short(monkeypatch)
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"x": random.normal(size=(120, 3)), "y": 9 * random.normal(size=120) + 20}
    table = {"boston_X": arrays["x"], "boston_y": arrays["y"], "boston_test": np.arange(12)[None].repeat(2, 0)}
    monkeypatch.setattr(model.data_files, "load", lambda folder, name: table)
    split = model.boston(tmp_path, 1)
    rest = arrays["y"][12:]
    expected = (arrays["y"][:12] - rest.mean()) / rest.std(ddof=1)
    assert np.allclose(split.y_test[:, 0], expected, atol=1e-5)
    assert math.isclose(split.scale, rest.std(ddof=1), rel_tol=1e-6)
    found = experiment.work_boston(tmp_path, 1, lambda amount: None)
    assert len(matched(found, BOSTON)) == 1
    assert all(len(judged(found, BOSTON, prior)) == 1 for prior in PRIORS[:2])
