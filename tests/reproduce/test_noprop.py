"""The NoProp experiment: its data, a miniature run, the bytes it counts, its claims on made-up records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce import noprop
from probkernels.reproduce.noprop import experiment, model
from probkernels.reproduce.noprop.records import BP, CHAIN, CT, DT, FM, LINEAR, ONE_BLOCK, WAYS, Trained

from tests.reproduce.made_up import of_noprop
from tests.reproduce.support import Sum, run_here


def test_digits_are_split_by_class() -> None:
    pytest.importorskip("sklearn")
    data = model.load("digits", None)
    assert (len(data.x), len(data.x_test)) == (1347, 450)
    assert float(data.x.max()) == 1 and data.y_test.bincount().min() >= 43


def test_files_of_data_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12_000, 28, 28), np.uint8), rng.integers(0, 10, 12_000)
    np.savez(tmp_path / "mnist.npz", xtr=images, ytr=labels, xte=images[:5])
    x, y = rng.normal(size=(6, 40)).astype(np.float32), rng.integers(0, 10, 6).astype(np.uint8)
    np.savez(tmp_path / "mnist1d.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    data = model.load("mnist", tmp_path)
    assert (len(data.x), len(data.x_test)) == (2000, 10_000)
    assert torch.equal(data.x_test[0], torch.from_numpy(images[2000]).flatten().float() / 255)
    assert data.y_test.tolist() == labels[2000:].tolist()
    assert torch.equal(model.load("mnist1d", tmp_path).x_test, torch.from_numpy(x[:2]))
    assert {job[0] for job in experiment.larger_jobs(tmp_path)} == {"mnist", "mnist1d"}


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "BLOCKS", 2)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [("digits", way, 0, 1) for way in (DT, CT, FM, BP, LINEAR)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 5
    trained = [r for r in records if isinstance(r, Trained)]
    assert {r.way for r in trained} == set(WAYS)
    assert all(0 <= a <= 1 for r in trained for a in r.accuracies)
    assert experiment.measure(True, None, Sum()) == records


def test_bytes_are_those_of_storages() -> None:
    a = torch.ones(100, requires_grad=True)
    assert experiment.saved_bytes(lambda: (a * a).sum()) == 400  # twice the same storage
    assert experiment.saved_bytes(lambda: a.exp().exp().sum()) == 800
    found = {(r.way, r.blocks): r.bytes for r in experiment.memory()}
    assert found[ONE_BLOCK, 5] == found[ONE_BLOCK, 40]
    assert found[CHAIN, 40] - found[CHAIN, 20] == 2 * (found[CHAIN, 20] - found[CHAIN, 10])


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in noprop.claims.claims(of_noprop(worse=False))]
    assert measured == pytest.approx([0.0178, 0.9711 - 0.9822, 0.9822 - 0.91, 1, 8])
