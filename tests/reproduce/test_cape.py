"""The CaPE experiment: its data, a miniature run, released predictions, its claims on made-up records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce import cape
from probkernels.reproduce.cape import experiment, model
from probkernels.reproduce.cape.records import FACES, SCENARIOS, WAYS

from tests.reproduce.made_up import of_cape
from tests.reproduce.support import Sum, run_here


def test_chances_are_those_of_the_paper() -> None:
    ages = torch.tensor([0, 20, 21, 29, 61, 99], dtype=torch.float64)
    for scenario, expected in {
        "linear": [0, 0.2, 0.21, 0.29, 0.61, 0.99],
        "skewed": [0, 0.08, 0.084, 0.116, 0.244, 0.396],
        "centered": [0.35, 0.41667, 0.42, 0.44667, 0.55333, 0.68],
        "discrete": [0.1, 0.1, 0.3, 0.3, 0.7, 0.9],
        "sigmoid": [0.00071, 0.09535, 0.11920, 0.5, 0.99966, 1],
    }.items():
        assert model.CHANCES[scenario](ages).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outcomes_follow_the_truth(scenario: str) -> None:
    pytest.importorskip("sklearn")
    data = model.draw(scenario, 0)
    assert [len(y) for _, y in (data.train, data.validation, data.test)] == [1000, 300, 497]
    assert len(data.truth.unique()) <= 10 and data.truth.dtype is torch.float64
    gap = data.test[1].double().mean() - data.truth.mean()
    assert abs(gap) < 4 * 0.5 / 497**0.5
    assert torch.equal(model.draw(scenario, 0).test[1], data.test[1])


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "START_EPOCHS", 2)
    monkeypatch.setattr(experiment, "MORE_EPOCHS", 1)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [("linear", 0, "bin"), ("linear", 0, "kernel")])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 4 + 3
    assert {record.way for record in records} == set(WAYS)
    assert all(0 < record.mse_p < 0.2 and 0 <= record.ece < 0.5 for record in records)
    assert experiment.measure(True, None, Sum()) == records


def test_claims_tell_what_was_measured() -> None:
    records = of_cape(worse=False)
    measured = [claim.measured for claim in cape.claims.claims(records)[:9]]
    assert measured[0] == pytest.approx(0.02413 / 0.03679) and measured[4:6] == [0, 0]
    assert measured[6:] == pytest.approx([0.0971 / 0.0248, 0.0335 / 0.0383, 1])
    assert [len(table.rows) for table in cape.claims.tables(records)] == [8, len(SCENARIOS) * len(WAYS)]


def test_released_predictions_are_measured_by_their_definitions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{scenario}_{model}": rng.uniform(0.1, 0.9, 90) for scenario, model in FACES}
    for scenario in ("linear", "discrete"):
        arrays[f"{scenario}_p"] = rng.uniform(0.1, 0.9, 90).astype(np.float32)
        arrays[f"{scenario}_y"] = rng.integers(0, 2, 90).astype(np.uint8)
    np.savez(tmp_path / "prob_estimation_utkface.npz", **arrays)
    found = experiment.measure_released(tmp_path)
    assert [(record.scenario, record.model) for record in found] == list(FACES)
    for record in found:
        q, p, y = (arrays[f"{record.scenario}_{key}"].astype(float) for key in (record.model, "p", "y"))
        expected = {
            "mse_p": np.mean((q - p) ** 2),
            "kl_p": np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))),
            "brier": np.mean((q - y) ** 2),
            "ks": np.abs(np.cumsum((q - y)[np.argsort(q)])).max() / 90,
            "auroc": np.mean(q[y == 1][:, None] > q[y == 0]),
            "nll": -np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)),
        }
        assert record.figures == pytest.approx(expected)
        assert record.identity == pytest.approx(expected["brier"] - expected["mse_p"] - np.mean(p * (1 - p)))


def test_missing_predictions_show_before_training(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(FileNotFoundError, match="jackzhu727"):
        experiment.measure(False, tmp_path, Sum())
