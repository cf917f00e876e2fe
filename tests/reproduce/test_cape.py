"""The CaPE experiment: its data, a miniature run, its claims on made-up records."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import cape
from probkernels.reproduce.cape import experiment, model
from probkernels.reproduce.cape.records import SCENARIOS, WAYS

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
    measured = [claim.measured for claim in cape.claims.claims(records)[:3]]
    assert measured == pytest.approx([0.0971 / 0.0248, 0.0335 / 0.0383, 1])
    assert len(cape.claims.tables(records)[0].rows) == len(SCENARIOS) * len(WAYS)
