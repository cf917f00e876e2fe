"""The experiment on stochastic neurons: its data, its settings, a miniature run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce.stochastic_neurons import experiment, model
from probkernels.reproduce.stochastic_neurons.records import DIGITS, LINEAR, MNIST, NR, PARITY, SBN, STS, UNITS

from tests.reproduce.support import Sum, run_here, still


def test_a_linear_model_cannot_tell_parity() -> None:
    pytest.importorskip("sklearn")
    data = model.load(PARITY, None)
    assert [len(y) for _, y in (data.train, data.test)] == [1347, 450]
    assert data.train[1].unique().tolist() == [0, 1] and data.train[0].max() == 1
    assert model.linear_accuracy(data) == pytest.approx(0.9178, abs=0.005)


def test_settings_are_those_of_the_sheet() -> None:
    for unit in UNITS:
        layer, optimizer = model.made(DIGITS, unit, 64)
        others, gater = optimizer.param_groups
        assert (layer.gates, layer.rate, others["lr"], others["momentum"]) == (200, 0.1, 0.1, 0.5 * (unit == STS))
        assert gater["lr"] == (0.001 if unit == SBN else 0.1) and len(gater["params"]) == 4
        assert (layer.noise is not None) == (unit == STS)
    layer, _ = model.made(DIGITS, NR, 64)
    with torch.no_grad():
        layer.weight.mul_(100)
        layer.read_weight.mul_(100)
    model.bound_norms(layer)
    assert layer.weight.norm(dim=1).max().item() == pytest.approx(2.1, rel=1e-4)
    assert layer.read_weight.norm(dim=0).tolist() == pytest.approx([2.1] * 10, rel=1e-4)


def test_every_step_sees_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = model.cross_entropy

    def counted(y: torch.Tensor, labels: torch.Tensor, **how: str) -> torch.Tensor:
        seen.append(len(labels))
        return whole(y, labels, **how)

    monkeypatch.setattr(model, "cross_entropy", counted)
    part = torch.rand(67, 64), torch.randint(2, (67,))
    model.train(PARITY, NR, 0, model.Data(part, part), 2, lambda _: None)
    assert seen == [32] * 4


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "QUICK_EPOCHS", {DIGITS: 2, PARITY: 1})
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(DIGITS, STS, 0), (DIGITS, SBN, 0), (PARITY, LINEAR, 0)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 2 + 2 + 1
    assert [record.unit for record in records] == [STS, SBN, LINEAR]
    assert all(record.accuracy > 0.3 and len(record.curve) in (1, 2) for record in records)
    assert all(record.active < 0.2 for record in records[:2])
    again = experiment.measure(True, None, Sum())
    assert [record.curve for record in again] == [record.curve for record in records]


def test_mnist_is_judged_on_held_out_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (10_064, 784), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", xtr=x, ytr=rng.integers(0, 10, 10_064), xte=x[:10])
    data = model.load(MNIST, tmp_path)
    assert [len(y) for _, y in (data.train, data.test)] == [64, 10_000]
    monkeypatch.setitem(model.SIZES, MNIST, (5, 20, 10))
    record = experiment.work(MNIST, NR, 0, 1, tmp_path, still)
    assert 0 < record.accuracy < 0.3 and record.task == MNIST


def test_a_missing_file_shows_before_training(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz"):
        experiment.measure(False, tmp_path, Sum())
