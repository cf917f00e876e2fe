"""The experiment with learned proximal networks: its truth, a miniature run."""

from __future__ import annotations

import pytest
from probkernels.reproduce.learned_proximal import experiment
from probkernels.reproduce.learned_proximal.records import SMALL, WAYS, posterior_mean, soft

from tests.reproduce.support import Sum, run_here


def test_posterior_mean_and_mode_are_those_of_the_sheet() -> None:
    table = {0.5: 0.241019, 1.0: 0.503223, 1.5: 0.805627, 2.0: 1.161089, 3.0: 2.025812}
    for y, mean in table.items():
        assert posterior_mean(y) == pytest.approx(mean, abs=1e-6) and posterior_mean(-y) == pytest.approx(
            -mean, abs=1e-6
        )
    assert [soft(y) for y in (-3.0, 0.5, 1.5)] == [-2, 0, 0.5]


def test_miniature_run_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "SIZES", {SMALL: (500, 16)})
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total > 0
    assert [record.way for record in records] == [WAYS[1], WAYS[2], WAYS[0]]
    assert all(len(record.f) == 7 and len(record.curve) == 101 and record.rmse > 0 for record in records)
