"""The experiment on scale mixtures: its splits, its choice by validation, a miniature run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.kernel_methods import InverseGamma, MLPKernel, ScaleMixtureGP
from probkernels.reproduce.scale_mixture_nngp import experiment
from probkernels.reproduce.scale_mixture_nngp.records import DIABETES, FAMILIES, GAMMA, UCI

from tests.reproduce.support import Sum, run_here, still


def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in {"W_STD": (1.4,), "B_STD": (0.3,), "NOISE": (1.0,), "GAMMAS": ((2.0, 2.0),)}.items():
        monkeypatch.setattr(experiment, name, values)


def test_parts_of_a_split_are_disjoint() -> None:
    pytest.importorskip("sklearn")
    _, y, parts = experiment.load(DIABETES, 350, 3, None)
    assert [len(part) for part in parts] == [350, 46, 46]
    assert len(np.unique(np.concatenate(parts))) == len(y) == 442


def test_uci_has_its_standard_test_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(0)
    tables = {}
    for name in ("boston", "concrete", "energy", "kin8nm", "naval", "power", "wine", "yacht"):
        tables |= {f"{name}_X": random.randn(40, 3), f"{name}_y": random.randn(40)}
        tables[f"{name}_test"] = random.permutation(40)[None, :4].repeat(20, 0)
    np.savez(tmp_path / "uci_regression.npz", **tables)
    small_grid(monkeypatch)
    for name in UCI:
        parts = experiment.load(name, 0, 2, tmp_path)[2]
        assert sorted(parts[2]) == sorted(tables[f"{name}_test"][2]) and len(np.unique(np.concatenate(parts))) == 40
    assert experiment.work("yacht", 0, 2, tmp_path, still).n == 33
    monkeypatch.setattr(experiment, "INDUCING", 5)
    assert experiment.work("power", 0, 1, tmp_path, still).n == 33


def test_figures_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    small_grid(monkeypatch)
    record = experiment.work(DIABETES, 40, 0, None, still)
    X, y, (train, _, test) = experiment.load(DIABETES, 40, 0, None)
    inputs = torch.from_numpy((X - X[train].mean(0)) / X[train].std(0))
    targets = torch.from_numpy(y)
    gp = ScaleMixtureGP(MLPKernel(4, w_std=1.4, b_std=0.3), InverseGamma(2.0, 2.0), noise=1.0)
    mean, std = y[train].mean(), y[train].std()
    gp.fit(inputs[train], (targets[train] - mean) / std)
    found = gp.predict(inputs[test])
    scaled = torch.distributions.StudentT(found.df, found.loc * std + mean, found.scale * std)
    assert record.nll[GAMMA] == pytest.approx(-scaled.log_prob(targets[test]).mean().item(), abs=1e-9)
    assert set(record.nll) == set(FAMILIES)


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    small_grid(monkeypatch)
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(DIABETES, 40, 0), (DIABETES, 150, 1), ("yacht", 0, 0)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == len(records) == 2
    assert [record.nll for record in experiment.measure(True, None, Sum())] == [record.nll for record in records]


def test_a_missing_file_shows_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(FileNotFoundError, match=r"uci_regression\.npz"):
        experiment.measure(False, tmp_path, Sum())
