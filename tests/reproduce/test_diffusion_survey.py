"""The experiment with tasks of diffusion models: its simple methods, a miniature run."""

from __future__ import annotations

import pytest
import torch
from probkernels.reproduce.diffusion_survey import experiment, model
from probkernels.reproduce.diffusion_survey.records import EXPECTED, SMALL, TASKS, Measured

from tests.reproduce.support import Sum, WorkersHere


def test_simple_methods_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 2, generator=generator) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    gaussian = model.Gaussian(x, ridge=0.0)
    found = gaussian.conditional(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]]), 0.01)
    assert found[0].tolist() == pytest.approx([0.990, 0.792], abs=0.02)
    assert gaussian.surprise(torch.tensor([[1.0, 1.0]]))[0].tolist() == pytest.approx([0.2, 0.2], abs=0.03)
    assert model.frechet(x, x + 2) == pytest.approx(8, rel=1e-3)
    assert model.frechet(x, 3 * x) == pytest.approx(4 * float(torch.cov(x.T).trace()), rel=0.02)
    assert model.auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])) == 0.75
    assert model.dice(torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])) == pytest.approx(2 / 3)


def test_patches_come_back_as_the_image() -> None:
    image = torch.arange(16.0 * 24).view(16, 24)
    assert torch.equal(experiment._whole(experiment._patches(image).view(-1, 8, 8), (16, 24)), image)


def test_miniature_run_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "Workers", WorkersHere)
    monkeypatch.setattr(experiment, "SIZES", {SMALL: (10, 8, 10, 8, 80, 3)})
    progress = Sum()
    records = [r for r in experiment.measure(True, None, progress) if isinstance(r, Measured)]
    assert progress.done == progress.total == 10 + len(TASKS)
    assert {r.task for r in records} == set(TASKS)
    for record in records:
        assert set(record.figures) == set(EXPECTED[record.task]) - {"ancestral, 1000"}
        assert all(len(image) == 64 for images in record.shown.values() for image in images)
