"""The experiment with monotone Boltzmann machines: its data, its iterations, a miniature run, its claims."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce import monotone_dbm
from probkernels.reproduce.monotone_dbm import experiment, model
from probkernels.reproduce.monotone_dbm.records import LONG, MONOTONE, Completed, judged

from tests.reproduce.made_up_rooms import of_monotone_dbm
from tests.reproduce.support import still


def test_data_and_queries() -> None:
    pytest.importorskip("sklearn")
    pixels, test, labels, _ = model.digits()
    assert (len(pixels), len(test)) == (1347, 450) and int(pixels.max()) == 3 and len(labels.unique()) == 10
    observed = experiment.masks(200, torch.Generator().manual_seed(0))
    assert abs(float(observed[:, :64].double().mean()) - 0.4) < 0.03 and not observed[:, 64:].any()


def test_iterations_below_the_bound_converge() -> None:
    found = experiment.iterate(0.125)
    assert found.converged and found.iterations <= 20


def test_miniature_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pixels, test, labels, test_labels = model.digits()
    monkeypatch.setattr(model, "digits", lambda: (pixels[:128], test[:20], labels[:128], test_labels[:20]))
    records = experiment.work(MONOTONE, 1, still)
    (one,) = judged(records)
    assert len(one.iterations) == 1 and one.min_eig >= 0.05 - 1e-4 and 0 <= one.pixels <= 1
    assert isinstance(records[1], Completed)


def test_claims_tell_what_was_measured() -> None:
    claims = monotone_dbm.claims.claims(of_monotone_dbm(worse=False))
    assert [claim.measured for claim in claims[:4]] == pytest.approx([0.72, 0.723 - 0.676, 0.918, 0.082])
    assert LONG == 60 and len(claims) == 12
