"""The compression experiment: miniature runs, its claims, its pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.circuits import hclt
from probkernels.reproduce import Outcome, pc_compression
from probkernels.reproduce.harness import report, toy_models
from probkernels.reproduce.pc_compression import experiment
from probkernels.reproduce.pc_compression.records import Classic, Coded

from tests.reproduce.made_up import of_pc_compression
from tests.reproduce.support import still, summarize

SIDE = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An MNIST of 40 + 20 images of noise around a bright column."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (60, SIDE, SIDE), dtype=np.uint8)
    pixels[:, :, 1] += 150
    np.savez(tmp_path / "mnist.npz", xtr=pixels[:40], ytr=np.arange(40, dtype=np.uint8) % 10, xte=pixels[40:])
    return tmp_path


def test_the_costs_of_the_pixels_are_those_of_the_image() -> None:
    x = torch.randint(0, 4, (50, 9), generator=torch.Generator().manual_seed(0))
    circuit = hclt(x, latents=3)
    costs = experiment.pixel_bits(circuit, x[:7])
    assert costs.shape == (7, 9) and costs.min() > 0
    assert torch.allclose(costs.sum(1), -circuit.log_prob(x[:7]).double().detach() / math.log(2), atol=1e-4)


def test_files_are_measured_whole_and_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 4, (300, 9), generator=torch.Generator().manual_seed(0))  # DEFLATE finds nothing in it
    circuit = hclt(x, latents=4)
    found = experiment.coded("some", "model", 0, circuit, x)
    assert found.same and (found.images, found.pixels) == (300, 9)
    assert found.ideal == pytest.approx(toy_models.bits(circuit, x) * 2700)
    assert abs(found.alone) * 9 < 8  # bits an image; short ones may gain by their length, which is not counted
    assert found.bits == 8 * found.bytes / 2700 > found.ideal / 2700
    monkeypatch.setattr(experiment.PCCodec, "decompress", lambda self, blob: x.numpy()[::-1])
    assert not experiment.coded("some", "model", 0, circuit, x).same


@pytest.mark.parametrize("job", ["mnist", "mnist_grown", "mnist_classics"])
def test_miniature_mnist(folder: Path, job: str) -> None:
    jobs = {task[0]: task for task in experiment.mnist_jobs(folder, (1, 2), 20)}
    records = experiment.work(*jobs[job], still)
    assert records
    for record in records:
        if isinstance(record, Coded):
            assert record.same and record.data == "MNIST" and record.images == 20
        elif isinstance(record, Classic):
            assert record.bits == 8 * record.bytes / (20 * SIDE * SIDE)


def test_tables_and_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert len(pc_compression.claims.claims(of_pc_compression(worse=False))) == 1 + 3 + 4 + 4
    result = summarize(pc_compression, of_pc_compression(worse=False))
    text = str(result.tables)
    assert "2.0718" in text and "xz -9e" in text
    assert any(row[-1] == f"{math.ceil(19862 / ((int(8287 * 1.3) - 8287) / 500)):,}" for row in result.tables[2].rows)
    outcome = Outcome("pc_compression", pc_compression.METHOD, result, 1.0, 2.0)
    page = report.page([report.section(outcome)], "facts")
    assert page.count("<img") + page.count("<svg") >= 3


def test_quick_run_uses_one_seed() -> None:
    quick, full = experiment.digit_jobs(True), experiment.digit_jobs(False)
    assert [job for job in quick if job[0] == "digits"] == [("digits", 60, 8, 0)]
    assert len([job for job in full if job[0] == "digits"]) == 6
