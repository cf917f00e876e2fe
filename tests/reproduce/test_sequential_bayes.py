"""The experiment on sequential Bayes: its data, miniature runs, its claims on made-up records."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from probkernels.bnn import ProtoHead
from probkernels.reproduce import sequential_bayes
from probkernels.reproduce.sequential_bayes import experiment, model, peers
from probkernels.reproduce.sequential_bayes.records import (
    DIGITS,
    FASHION,
    FINE_TUNING,
    JOINT,
    SEQUENTIAL,
    WAYS,
    Learned,
    Stream,
)

from tests.reproduce.made_up import of_sequential_bayes
from tests.reproduce.support import Sum, run_here, still


def test_blobs_are_those_of_the_paper() -> None:
    tasks = model.blobs(torch.Generator().manual_seed(0))
    assert len(tasks) == 5
    for t, (x, y) in enumerate(tasks):
        for label, blob in ((0, t), (1, t + 5)):
            own = x[y == label]
            assert len(own) == 80
            center, std = torch.tensor(model.CENTERS[blob]), torch.tensor(model.STDS[blob])
            torch.testing.assert_close(own.mean(0), center, rtol=0, atol=0.1)
            torch.testing.assert_close(own.std(0), std, rtol=0.3, atol=0)


def test_the_likelihood_is_a_sum_of_log_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(3, model.PARAMETERS, generator=generator), torch.randn(7, 2, generator=generator)
    y = torch.arange(7) % 2
    logs = model.logits(w, x).log_softmax(2)
    expected = logs[:, torch.arange(7), y].sum(1)
    torch.testing.assert_close(model.log_likelihood(x, y)(w), expected)


def test_digits_are_split_by_class_and_seed() -> None:
    pytest.importorskip("sklearn")
    (x, y), (x_test, y_test) = experiment.digits(0)
    assert len(x) + len(x_test) == 1797 and x.min() >= -1 and x.max() <= 1
    shares = torch.bincount(y) / (torch.bincount(y) + torch.bincount(y_test))
    torch.testing.assert_close(shares, torch.full((10,), 0.7), rtol=0, atol=0.01)
    assert [sorted(labels.unique().tolist()) for _, labels in peers.split(x, y)] == [
        [2 * t, 2 * t + 1] for t in range(5)
    ]
    assert not torch.equal(x, experiment.digits(1)[0][0])


def test_fashion_images_are_read_from_a_folder_and_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images of each class in the three files of the training set, two in that of the test set."""
    rng, labels = np.random.default_rng(0), {}
    for part, files, each in (
        ("train", ["train_images_0", "train_images_1", "train_images_2"], 4),
        ("test", ["test_images"], 2),
    ):
        labels[part] = np.arange(10 * each, dtype=np.uint8) % 10
        images = rng.integers(0, 256, (10 * each, 28, 28), dtype=np.uint8)
        images[0, 0, :2] = 0, 255
        for file, rows in zip(files, np.array_split(images, len(files)), strict=True):
            with lzma.open(tmp_path / f"fashion_mnist_{file}.npy.xz", "wb") as to:
                np.save(to, rows)
    np.savez(tmp_path / "fashion_mnist_labels.npz", **labels)
    for (x, y), each in zip(experiment.fashion(tmp_path), (4, 2), strict=True):
        assert x.shape == (10 * each, 784) and x.dtype == torch.float32
        assert (x[0, 0], x[0, 1]) == (-1.0, 1.0) and float(x.abs().max()) == 1.0
        assert y.dtype == torch.int64 and y.bincount().tolist() == [each] * 10
    monkeypatch.setattr(experiment, "FASHION_SETTING", peers.Setting(epochs=1, batch=8))
    found = experiment.work(FASHION, WAYS[-1], 10, 0, str(tmp_path), lambda amount: None)
    assert isinstance(found, Learned)
    assert (found.data, len(found.accuracy)) == (FASHION, 5)


def test_miniature_run_is_deterministic_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(experiment, "run_jobs", run_here)
    monkeypatch.setattr(model, "LEAPFROG", 1)
    small = replace(peers.Setting(), hidden=16, width=8, epochs=1, batch=64, support=32)
    monkeypatch.setattr(experiment, "setting_of", lambda data: small)
    jobs = [("stream", way, 85, 0, "") for way in (SEQUENTIAL, JOINT)]
    jobs += [(DIGITS, way, 0 if way == FINE_TUNING else 20, 0, "") for way in WAYS]
    monkeypatch.setattr(experiment, "jobs", lambda quick: jobs)
    progress = Sum()
    records = experiment.measure(True, None, progress)
    assert progress.done == progress.total > 0
    streams = [r for r in records if isinstance(r, Stream)]
    assert [len(row) for row in streams[0].accuracy] == [1, 2, 3, 4, 5]
    assert [len(row) for row in streams[1].accuracy] == [5]
    learners = [r for r in records if isinstance(r, Learned)]
    assert [r.way for r in learners] == list(WAYS)
    assert all(len(r.accuracy) == 5 and all(0 <= a <= 1 for a in r.accuracy) for r in learners)
    assert experiment.measure(True, None, Sum()) == records


def test_accumulated_statistics_count_every_epoch() -> None:
    """What the paper's code does: each epoch adds the embeddings of a moving encoder again."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.arange(30) % 2
    setting = replace(peers.Setting(), hidden=8, width=4, epochs=3, batch=8)
    learner = peers.Learner(peers.ACCUMULATE, 4, 5, setting, 0)
    learner.learn(0, (x, y), still)
    assert isinstance(learner.head, ProtoHead)
    assert learner.head.counts.tolist() == [45, 45] + [0] * 8
    learner = peers.Learner(peers.REFRESH, 4, 6, setting, 0)
    learner.learn(0, (x, y), still)
    assert isinstance(learner.head, ProtoHead)
    assert int(learner.head.counts.sum()) == len(learner.memory) == 6


def test_claims_tell_what_was_measured() -> None:
    measured = [claim.measured for claim in sequential_bayes.claims.claims(of_sequential_bayes(worse=False))]
    assert measured == pytest.approx([0.9926, 0.606, 0.992, 0.947, 0.197], abs=1e-9)
