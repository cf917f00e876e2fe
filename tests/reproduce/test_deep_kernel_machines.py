"""The experiment with deep kernel machines: a miniature run on digits and on a table, its claims."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from probkernels.reproduce import deep_kernel_machines
from probkernels.reproduce.deep_kernel_machines import experiment
from probkernels.reproduce.deep_kernel_machines.records import LEAST_SQUARES, Classified

from tests.reproduce.made_up import of_deep_kernel_machines
from tests.reproduce.support import Sum, run_here


def test_miniature_run_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "EPOCHS", 1)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(math.inf, 0), (1.0, 0)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 2
    assert all(isinstance(r, Classified) and r.accuracy > 0.5 and 0 < r.nll < 2.31 for r in records)
    assert experiment.measure(True, None, Sum()) == records


def test_tables_are_measured_on_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "STEPS", 5)
    monkeypatch.setattr(experiment, "TABLE_EPOCHS", 5)
    monkeypatch.setattr(experiment, "INDUCING", 10)
    rng, arrays = np.random.default_rng(0), {}
    for name in LEAST_SQUARES:
        arrays[f"{name}_X"] = rng.normal(size=(40, 2))
        arrays[f"{name}_y"] = 100 + 10 * arrays[f"{name}_X"][:, 0]
        arrays[f"{name}_test"] = np.arange(10).reshape(2, 5)
    np.savez(tmp_path / "uci_regression.npz", **arrays)
    found = experiment.measure_tables(tmp_path, Sum(), {"yacht": range(2), "power": range(1)})
    assert [(r.table, r.split, r.nu) for r in found] == [
        (name, split, nu) for name, split in (("yacht", 0), ("yacht", 1), ("power", 0)) for nu in (math.inf, 1.0)
    ]
    assert all(r.rmse < 5 and r.nll < 4 for r in found)  # y has a standard deviation of 10


def test_claims_tell_what_was_measured() -> None:
    records = of_deep_kernel_machines(worse=False)
    found = deep_kernel_machines.claims.claims(records)
    assert found[0].measured == pytest.approx(0.0080)
    assert found[1].measured == pytest.approx(0.0570)
    assert len(found) == 3 + len(LEAST_SQUARES)
