"""The PV-RNN experiment: its symbols and scores, a miniature run, its peers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce import pvrnn
from probkernels.reproduce.pvrnn import experiment, model, peers
from probkernels.reproduce.pvrnn.records import (
    ARM,
    LARGE,
    LAST,
    LINE,
    MIDDLE,
    PATH,
    SMALL,
    WAYS,
    Online,
    Predicted,
    Trained,
)  # fmt: skip

from tests.reproduce.made_up_rooms import of_pvrnn
from tests.reproduce.support import Sum, run_here


def test_symbols_and_their_scores() -> None:
    phase = torch.arange(300) % 3
    x = model.symbols(300, 30, torch.Generator().manual_seed(0), phase)
    assert x[0, :2].tolist() == [1, 0] and x[1, 0] == 0 and x[2, 1:3].tolist() == [1, 0]
    right, coin = model.grammar(x)
    assert right == 1 and coin == pytest.approx(0.3, abs=0.03)
    broken = torch.tensor([[1, 0, 1] * 4 + [1, 1, 0] * 4])
    assert model.grammar(broken)[0] == pytest.approx(4 / 7)
    assert model.varied(torch.tensor([[0, 0], [0, 1], [0, 1]])) == pytest.approx(1 / 3)
    assert model.one_hot(x).shape == (300, 30, 1, 2)


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    for name, value in {"EPOCHS": 2, "FREE": 40, "SETTLING": 10, "REPEATS": 2, "ITERATIONS": 1}.items():
        monkeypatch.setattr(experiment, name, value)
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 6
    assert [r.w for r in records if isinstance(r, Trained)] == [LARGE, MIDDLE, SMALL]
    assert [r.w for r in records if isinstance(r, Online)] == [MIDDLE]
    assert experiment.measure(True, None, Sum()) == records


def test_movements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a straight line, the last difference is right and the last value is off by the steps."""
    monkeypatch.setattr(peers, "EPOCHS", 1)
    monkeypatch.setattr(peers, "ITERATIONS", 1)
    line = np.linspace(0, 0.64, 65, dtype=np.float32)[None, :, None].repeat(2, 0)
    names = [f"{data}_{part}" for data in (ARM, PATH) for part in ("train", "test")]
    np.savez(tmp_path / "pvrnn_sequences.npz", **dict.fromkeys(names, line))
    found = experiment.predict(tmp_path, ARM, 0, lambda amount: None)
    rmse = {r.way: r.rmse for r in found if isinstance(r, Predicted)}
    assert tuple(rmse) == WAYS
    assert rmse[LINE] == pytest.approx({1: 0, 5: 0}, abs=1e-6)
    assert rmse[LAST] == pytest.approx({1: 0.04, 5: 0.2}, rel=1e-4)
    assert all(math.isfinite(value) for of_way in rmse.values() for value in of_way.values())


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in pvrnn.claims.claims(of_pvrnn(worse=False))]
    assert measured == pytest.approx([1.0, 0.005, 0.0, 0.467, 1.0])
