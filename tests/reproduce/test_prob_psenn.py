"""The Prob-PSENN experiment: its data, a miniature run, its claims on made-up records."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import prob_psenn
from probkernels.reproduce.prob_psenn import experiment, model
from probkernels.reproduce.prob_psenn.records import EPISTEMIC, POINT, PROB, SCORES

from tests.reproduce.made_up import of_prob_psenn
from tests.reproduce.support import Sum, run_here


def test_unknown_classes_are_never_trained_on() -> None:
    pytest.importorskip("sklearn")
    data = model.draw(0)
    assert [len(data.train[0]), len(data.test[0]), len(data.unknown)] == [1000, 443, 354]
    assert set(data.train[1].tolist()) == set(data.test[1].tolist()) == set(range(8))
    assert data.train[0].min() >= -1 and data.train[0].max() <= 1
    assert not torch.equal(data.train[0], model.draw(1).train[0])
    assert torch.equal(data.train[0], model.draw(0).train[0])


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(experiment, "EPOCHS", 2)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(0,)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 6
    assert [record.way for record in records] == [POINT, PROB]
    for record in records:
        assert set(record.auroc) == set(SCORES) and all(0 <= value <= 1 for value in record.auroc.values())
        assert [len(record.gallery), len(record.gallery[0]), len(record.gallery[0][0])] == [8, 8, 64]
    point, prob = records
    assert point.auroc[EPISTEMIC] == 0.5 and point.epistemic == (0, 0) and min(prob.epistemic) > 0
    assert experiment.measure(True, None, Sum()) == records


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in prob_psenn.claims.claims(of_prob_psenn(worse=False))]
    assert measured == pytest.approx([0.003, 0.965, 0.015, 0.713 / 0.161])
