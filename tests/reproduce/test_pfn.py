"""The experiment on prior-fitted networks: miniature runs, real tables, ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probkernels.reproduce import pfn
from probkernels.reproduce.pfn import experiment, model, peers
from probkernels.reproduce.pfn.records import BARS, GAUSSIAN, PFN_NAME, SMALL, Tabular, ranks

from tests.reproduce.made_up_rooms import of_pfn
from tests.reproduce.support import Sum, still


def test_miniature_runs() -> None:
    """One step of every kind of job; the order of contexts does not matter even then."""
    bar = Sum()
    for what, head in (("coins", ""), ("modes", GAUSSIAN), (SMALL, BARS)):
        (record,) = experiment.work(what, head, 2, 0, "", bar.advance)
        assert record.steps == 2
    assert bar.done == 6
    assert record.order < 1e-12 and set(record.gap) == {0, 1, 2, 5, 9}


@pytest.mark.parametrize(
    "key, nats", [((10, 0.0, 1.0), 0.2909), ((100, 2.0, 0.1), 0.1746), ((1000, 0.0, 0.01), 0.0026)]
)
def test_binning_floors(key: tuple[int, float, float], nats: float) -> None:
    assert model.floor(*key) == pytest.approx(nats, rel=0.02)


def test_tables_are_split_evenly_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(peers, "SPLITS", 1)
    draw = np.random.default_rng(0)
    y = np.arange(150) % 2
    apart = (draw.normal(size=(150, 3)) + 3 * y[:, None]).astype("f4")
    np.savez(tmp_path / "small_tables.npz", diabetes_X=apart, diabetes_y=y)
    x, labels = peers.tables(tmp_path)["diabetes"]
    train, known, test, truth = peers.split(x, labels, 0)
    assert known.sum() == 15 and len(known) == 30 and truth.sum() == 50 and len(truth) == 100
    assert not {tuple(row) for row in train} & {tuple(row) for row in test}
    found = peers.compared(1, 0, tmp_path, still)
    assert found[0].model == PFN_NAME and len(found) == 5
    assert all(r.auc > 0.9 for r in found if r.model != PFN_NAME)


def test_ranks() -> None:
    """The best AUC has rank 1, equal ones share theirs."""
    rows = [Tabular("a", name, auc, 0.1, 1) for name, auc in (("x", 0.9), ("y", 0.8), ("z", 0.8))]
    assert [ranks(rows)[name][0] for name in "xyz"] == [1.0, 2.5, 2.5]


def test_the_claims_of_the_full_run_need_it() -> None:
    records = [r for r in of_pfn(False) if getattr(r, "setting", SMALL) == SMALL]
    assert len(pfn.claims.claims(records)) == 6 and len(pfn.claims.claims(of_pfn(False))) == 8
