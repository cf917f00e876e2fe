"""The h-calibration experiment: its data, a miniature run, its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels import uncertainty
from probkernels.reproduce import h_calibration
from probkernels.reproduce.h_calibration import experiment
from probkernels.reproduce.h_calibration.records import (
    BEFORE,
    DENSENET,
    DRAWN,
    LENET,
    LIKELIHOOD,
    SELECTED,
    TS,
    WRN,
    selected,
)

from tests.reproduce.made_up import of_h_calibration
from tests.reproduce.support import still, summarize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Probabilities of 60 images in the files of the networks."""
    rng = np.random.default_rng(0)
    few, many = (rng.dirichlet(np.full(classes, 0.5), 60).astype(np.float32).clip(1e-6) for classes in (10, 60))
    y = rng.integers(0, 10, 60).astype(np.uint8)
    np.savez(tmp_path / "calib_cifar10.npz", lenet5=few, wrn16_4=few[::-1], y=y)
    np.savez(tmp_path / "calib_cifar100_densenet_bc_100.npz", probs=many, y=y)
    return tmp_path


def test_drawn_logits_are_twice_too_sure() -> None:
    logits, labels = experiment.drawn(0, samples=20_000, classes=4)
    assert uncertainty.ece((logits / 2).softmax(1), labels) < 0.02
    assert uncertainty.ece(logits.softmax(1), labels) > 0.08


def test_logits_of_networks_are_logarithms_in_random_order(folder: Path) -> None:
    logits, labels = experiment.network(folder, LENET)
    with np.load(folder / "calib_cifar10.npz") as file:
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).numpy()
        np.testing.assert_allclose(logits.exp().numpy(), file["lenet5"][order], rtol=1e-5)
        assert labels.tolist() == file["y"][order].tolist()


def test_jobs_on_networks_need_data(folder: Path, tmp_path: Path) -> None:
    assert {job[0] for job in experiment.jobs(False)} == {"drawn"}
    assert experiment.jobs(True, folder) == experiment.jobs(True)
    assert {job[3] for job in experiment.jobs(False, folder) if job[0] == "network"} == {LENET, WRN, DENSENET}
    with pytest.raises(FileNotFoundError, match=r"calib_cifar10\.npz"):
        experiment.jobs(False, tmp_path / "nothing")


def test_miniature_run(folder: Path) -> None:
    planned = [job for job in experiment.network_jobs(folder, 2) if job[3] in (LENET, DENSENET)]
    records = [record for job in planned for record in experiment.work(*job, still)]
    records += experiment.work("drawn", 2, 0, TS, still)
    for data in (LENET, DENSENET, DRAWN):
        ways = [record.way for record in records if record.data == data]
        assert ways.count(BEFORE) == ways.count(LIKELIHOOD) == ways.count(TS) == 1
    for record in records:
        assert record.changed == 0
        assert sum(count for _, _, count in record.bins) == (5000 if record.data == DRAWN else 30)
        gaps = sum(count * abs(confidence - right) for confidence, right, count in record.bins)
        assert gaps / sum(count for _, _, count in record.bins) == pytest.approx(record.ece, abs=1e-5)


def test_the_best_of_twelve_maps_by_each_selection(folder: Path) -> None:
    planned = experiment.selection_jobs(folder, 2)
    assert len(planned) == 3 * 12 and set(planned) < {(*job[:1], 2, *job[2:]) for job in experiment.jobs(False, folder)}
    few = [job for job in planned if job[3] == LENET and job[4] == "pwlinear" and job[5] <= 10]
    found = [record for job in few for record in experiment.work(*job, still)]
    chosen = selected(found)
    assert [record.way for record in chosen] == list(SELECTED.values()) and len(found) == 2 * len(chosen)
    for record in chosen:
        rivals = [other for other in found if other.way == record.way]
        assert record.score == min(other.score for other in rivals) and record.map in ("pwlinear 1", "pwlinear 10")
    logits, labels = experiment.network(folder, LENET)
    calibrator = uncertainty.HCalibrator("pwlinear", size=10, select="nll").fit(logits[:30], labels[:30], epochs=2)
    same = next(r for r in found if r.way == SELECTED["nll"] and r.map == "pwlinear 10")
    assert same.score[0] == calibrator.scores["pwlinear", 10]
    assert same.nll == pytest.approx(torch.nn.functional.nll_loss(calibrator(logits[30:]), labels[30:]).item())


def test_tables_show_what_was_expected() -> None:
    result = summarize(h_calibration, of_h_calibration(worse=False))
    assert len(result.tables) == 4 and len(result.claims) == 3 + 2 * 8
    rows = {(table.caption.partition(":")[0], row[0]): row for table in result.tables for row in table.rows}
    assert rows[WRN, TS][1] == rows[WRN, TS][-2] == "0.0072"
    assert "mean of 3 seeds" in result.tables[0].caption
