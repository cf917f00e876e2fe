"""The ROOT experiment: its data, a miniature run of all methods, its jobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.reproduce import root
from probkernels.reproduce.root import experiment
from probkernels.reproduce.root.records import BEST, EHRLICH, GB1, LABELS, SIZES, TF_BIND, Proposals

from tests.reproduce.support import summarize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """TF-Bind-8 with another score: the share of the letter A."""
    x = torch.cartesian_prod(*[torch.arange(4)] * 8).numpy().astype(np.uint8)
    np.savez(tmp_path / "tf_bind_8.npz", x=x, y=(x == 0).mean(1).astype(np.float32))
    return tmp_path


def test_data_are_the_poorer_half(folder: Path) -> None:
    letters, x, y, score, largest = experiment.tf_bind(folder)
    assert letters == 4 and float(y.max()) == 0.25 and largest == 1.0  # the median; not of the poorer half
    assert torch.equal(score(x[:100]), y[:100]) and float(score(torch.zeros(1, 8, dtype=torch.long))) == 1.0


def test_gb1_scores_unmeasured_variants_as_zero(tmp_path: Path) -> None:
    variant = np.array([[0, 0, 0, 0], [19, 0, 0, 0], [0, 0, 0, 19], [3, 2, 1, 0]], np.uint8)
    np.savez(tmp_path / "gb1_landscape.npz", variant=variant, fitness=np.float32([2, 1, 4, 3]))
    letters, x, y, score, largest = experiment.gb1(tmp_path)
    assert (
        largest is None and letters == 20 and x.tolist() == variant[:2].tolist() and y.tolist() == [2, 1]
    )  # the median is 2.5
    assert score(torch.tensor([[0, 0, 0, 19], [3, 2, 1, 0], [1, 2, 3, 0]])).tolist() == [4, 3, 0]


def test_gb1_joins_the_full_run_without_a_claim(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    alone = tmp_path_factory.mktemp("alone")
    for place in (folder, alone):
        np.savez(place / "gb1_landscape.npz", variant=np.zeros((1, 4), np.uint8), fitness=np.zeros(1, np.float32))
    assert GB1 not in {job[0] for job in experiment.jobs(True, folder)}
    assert {job[0] for job in experiment.jobs(False, folder)} == {TF_BIND, GB1}
    planned = experiment.jobs(False, alone)
    assert {job[0] for job in planned} == {EHRLICH, GB1} and all(job[1] in SIZES for job in planned)
    assert {job[3] for job in planned} == {None, alone}
    records = [Proposals(GB1, 3, method, 0, 1.0, 0.5, 0.25, [0.25, 1.0]) for method in (BEST, LABELS)]
    result = summarize(root, records)
    assert not result.claims and "not measured" in result.tables[0].caption and len(result.tables[0].rows) == 2


def test_jobs_take_the_data_that_are_there(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert {job[0] for job in experiment.jobs(True, folder)} == {TF_BIND}
    assert {job[0] for job in experiment.jobs(True, empty)} == {job[0] for job in experiment.jobs(True)} == {EHRLICH}
    assert set(experiment.jobs(True, folder)) < set(experiment.jobs(False, folder))


def test_miniature_run(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = experiment.ehrlich()
    x, y = problem.x, problem.y
    assert float(y.max()) < 0.4 and len(x) == 5000
    small = {"functions": 1, "ascent_steps": 5}
    monkeypatch.setattr(experiment, "NOISE_SEEDS", 1)
    monkeypatch.setattr(experiment, "STARTS", 16)
    asked = []
    propose = experiment.ROOT.propose
    monkeypatch.setattr(experiment.ROOT, "propose", lambda *a, **k: asked.append(k["target"]) or propose(*a, **k))
    records = experiment.compare(EHRLICH, 3, 0, problem._replace(x=x[:500], y=y[:500]), 50, 20, **small)
    mean = float(y[:500].mean())
    assert len(records) == 6 and asked == pytest.approx([mean + 0.8 * (1 - mean)] * 4)  # as the official code asks for
    best = next(r for r in records if r.method == BEST)
    assert best.top == float(y[:500].max()) and len(best.scores) == 16
    result = summarize(root, records)
    assert len(result.claims) == 1 and len(result.tables[0].rows) == 6
