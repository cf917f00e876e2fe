"""The experiment on protected images: its data, a miniature run, its claims on made-up records."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import unlearnable
from probkernels.reproduce.unlearnable import experiment, model
from probkernels.reproduce.unlearnable.records import FEATURES, PIXELS, SMALL
from probkernels.uncertainty import kernel_bayes_error

from tests.reproduce.made_up import of_unlearnable
from tests.reproduce.support import Sum, run_here


def test_digits_are_split_within_classes() -> None:
    pytest.importorskip("sklearn")
    x, y, test_x, test_y = model.digits()
    assert x.shape == (1347, 64) and test_x.shape == (450, 64)
    assert x.min() == 0 and x.max() == 1
    shares = torch.bincount(test_y) / (torch.bincount(y) + torch.bincount(test_y))
    assert (shares - 0.25).abs().max() < 0.01
    assert kernel_bayes_error(x, y, 0.5).item() == pytest.approx(0.043, abs=0.001)  # as another program gave


def test_networks_learn_and_depend_on_the_seed_alone() -> None:
    x = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0.5).long()
    one, same, other = (model.train(x, y, seed) for seed in (0, 0, 1))
    assert model.accuracy(one, x, y) > 0.7
    assert torch.equal(one(x), same(x)) and not torch.equal(one(x), other(x))


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    for name, value in (("OUTER", 2), ("INNER", 1), ("STEPS", 2), ("JUDGES", 1)):
        monkeypatch.setattr(experiment, name, value)
    monkeypatch.setattr(model, "EPOCHS", 2)
    monkeypatch.setattr(experiment, "jobs", lambda quick: [(FEATURES, 0), (PIXELS, 0)])
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total == 2
    assert [(r.way, len(r.errors), r.retrained is None) for r in records] == [(FEATURES, 3, False), (PIXELS, 3, True)]
    assert records[1].errors[0] == pytest.approx(0.043, abs=0.001) and records[1].errors[-1] > records[1].errors[0]
    assert all(0 < record.change <= 0.25 + 1e-6 and 0 < record.clean < 1 for record in records)
    assert experiment.measure(True, None, Sum()) == records


def test_claims_take_the_worst_seed_and_none_of_the_small_change() -> None:
    records = of_unlearnable(worse=False)
    records[0].errors, records[1].protected = [0.263, 0.4], 0.96
    claims = unlearnable.claims.claims(records)
    assert [claim.holds for claim in claims] == [False, False, True, True, True, True, True]
    assert claims[0].measured == pytest.approx(0.137) and claims[1].measured == pytest.approx(0.005)
    assert not any(SMALL in claim.text for claim in claims)
    assert len(unlearnable.claims.tables(records)[0].rows) == 4
