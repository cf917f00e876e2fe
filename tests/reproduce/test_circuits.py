"""The circuits experiment: its data, its peers, what it asks of a circuit, miniature runs, its pictures."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probkernels.circuits import chow_liu, factorized, hclt
from probkernels.reproduce import Progress, circuits
from probkernels.reproduce.circuits import experiment, peers, queries, records
from probkernels.reproduce.circuits.records import Curve, Fit, Gallery
from probkernels.reproduce.harness import datasets, report, toy_models
from probkernels.reproduce.harness.records import of_kind

from tests.reproduce.made_up import of_circuits
from tests.reproduce.support import Sum, run_here, summarize

SIDE = 4  # of made-up images


@pytest.fixture(scope="module")
def images() -> datasets.Images:
    """Digits' first rows and columns: small, and still images."""
    pytest.importorskip("sklearn")
    whole = datasets.digits()
    keep = torch.arange(64).view(8, 8)[2:6, 2:6].flatten()
    return datasets.Images(
        whole.train[:300, keep], whole.labels[:300], whole.test[:80, keep], whole.test_labels[:80], 17
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An MNIST of 40 + 20 images of noise around a bright column."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (60, SIDE, SIDE), dtype=np.uint8)
    pixels[:, :, 1] += 150
    labels = np.arange(40, dtype=np.uint8) % 10
    np.savez(tmp_path / "mnist.npz", xtr=pixels[:40], ytr=labels, xte=pixels[40:].reshape(20, -1))
    return tmp_path


# --- data ---


def test_digits_are_split_by_writer() -> None:
    pytest.importorskip("sklearn")
    found = datasets.digits()
    assert found.train.shape == (1297, 64) and found.test.shape == (500, 64)
    assert len(found.labels) == 1297 and len(found.test_labels) == 500
    assert (int(found.train.min()), int(found.train.max()), found.categories) == (0, 16, 17)
    assert found.side == 8 and found.lower_half.view(8, 8)[4:].all() and not found.lower_half.view(8, 8)[:4].any()


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn.*probkernels\[report\]"):
        circuits.run(True, None, Progress())


def test_mnist_is_read_flat(folder: Path) -> None:
    found = datasets.mnist(folder)
    assert found.train.shape == (40, 16) and found.test.shape == (20, 16) and found.side == 4
    assert found.categories == 256 and found.train.dtype is torch.uint8
    assert found.labels.tolist() == [i % 10 for i in range(40)]
    assert (found.train.view(-1, 4, 4)[:, :, 1] >= 150).all()


def test_a_bad_mnist_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a file .*mnist.npz.*published: LeCun"):
        circuits.run(False, tmp_path, Progress())
    np.savez(tmp_path / "mnist.npz", xtr=np.zeros((2, 4), np.uint8), xte=np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match="expected an array 'ytr'"):
        datasets.mnist(tmp_path)
    for wrong in (np.zeros((2, 4)), np.zeros((2, 5), np.uint8), np.zeros(4, np.uint8)):
        np.savez(tmp_path / "mnist.npz", xtr=wrong, ytr=np.zeros(2), xte=np.zeros((2, 4), np.uint8))
        with pytest.raises(ValueError, match="expected square images of uint8 in 'xtr'"):
            datasets.mnist(tmp_path)


def test_bits_of_uniform_pixels() -> None:
    x = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    assert toy_models.bits(factorized(x, pseudocount=0.0), x) == pytest.approx(2.0)


def test_counted_chow_liu_equals_the_circuit(images: datasets.Images) -> None:
    circuit = chow_liu(images.train, categories=17)
    counted = toy_models.chow_liu_bits(images.train, images.test, 17, 0.1)
    assert counted == pytest.approx(toy_models.bits(circuit, images.test), abs=1e-4)


def test_one_of_each() -> None:
    assert datasets.one_of_each([3, 1, 3, 2, 1]) == [1, 3, 0]


# --- peers ---


def test_gaussian_mixture_is_a_distribution_over_levels() -> None:
    """Of two pixels: the probabilities of all pairs sum to one, and beat the bound from noise."""
    mixture = pytest.importorskip("sklearn.mixture")
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(0, 4, (200, 2), generator=generator)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    each = [peers.gaussian_bits(train, pair[None], 4, 3, 0) for pair in pairs]
    assert sum(2 ** (-2 * value) for value in each) == pytest.approx(1, abs=1e-6)
    model = mixture.GaussianMixture(3, covariance_type="diag", reg_covar=1e-2, random_state=0)
    noise = torch.rand(train.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = -model.fit((train + noise).numpy()).score((train + noise).numpy()) / (2 * math.log(2))
    assert bound - 0.25 < peers.gaussian_bits(train, train, 4, 3, 0) < bound


def test_a_mixture_of_one_is_factorized(images: datasets.Images) -> None:
    found = peers.mixture_bits(images.train, images.test, 17, 1, 0, epochs=2)
    alone = toy_models.bits(factorized(images.train, categories=17, pseudocount=1.0), images.test)
    assert found == pytest.approx(alone, abs=1e-5)


def test_em_raises_what_adam_is_given(images: datasets.Images) -> None:
    circuit = hclt(images.train, 3, categories=17)
    values = [peers.penalized(circuit, images.train, 1.0).item()]
    for _ in range(5):
        toy_models.full_batch_em(circuit, images.train, 1, 1.0, lambda amount: None)
        values.append(peers.penalized(circuit, images.train, 1.0).item())
    assert values == sorted(values) and values[-1] > values[0] + 10


@pytest.mark.parametrize("batch", [None, 50])
def test_curves_fall(images: datasets.Images, batch: int | None) -> None:
    moved: list[float] = []
    em = peers.em_curve(hclt(images.train, 3, categories=17), images, batch, 8, moved.append)
    adam = peers.adam_curve(hclt(images.train, 3, categories=17), images, 0.1, batch or 300, 8, moved.append)
    assert len(em) == len(adam) == 8 and sum(moved) == 16
    assert em[-1] < em[0] - 0.05 and adam[-1] < adam[0] - 0.1


def test_classifiers(images: datasets.Images) -> None:
    found = peers.classifier_accuracies(images)
    assert set(found) == {"Gaussian naive Bayes", "logistic regression"} and min(found.values()) > 0.4


# --- questions ---


def test_halves_of_independent_pixels_are_their_marginals(images: datasets.Images) -> None:
    circuit = factorized(images.train, categories=17)
    found = queries.measure_halves("a name", circuit, images)
    hidden = images.lower_half
    alone = factorized(images.train[:, hidden], categories=17)
    assert found.bits == pytest.approx(toy_models.bits(alone, images.test[:, hidden]), abs=1e-5)
    mode = images.train.mode(0).values
    assert found.best == pytest.approx(float((mode - images.test).abs()[:, hidden].double().mean()) / 16, abs=1e-6)
    spread = (images.train.double().mean(0) - images.test)[:, hidden].square().mean().sqrt() / 16
    assert found.mean == pytest.approx(float(spread), abs=1e-3)  # the pseudocount moves the mean a little


def test_completions_keep_what_is_seen(images: datasets.Images) -> None:
    shown = queries.complete(hclt(images.train, 3, categories=17), images, [4, 1])
    assert torch.equal(shown.truth, images.test[[4, 1]]) and len(shown.draws) == queries.DRAWS
    for completed in (*shown.draws, shown.mean, shown.best):
        assert torch.equal(completed[:, ~shown.hidden], shown.truth[:, ~shown.hidden].to(completed))
    assert any(not torch.equal(draw, shown.truth) for draw in shown.draws)


def test_a_circuit_a_class_tells_classes_apart(images: datasets.Images) -> None:
    moved: list[float] = []
    assert queries.accuracy(images, 2, 5, 1.0, moved.append) > 0.5
    assert sum(moved) == 10


# --- the run ---


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, images: datasets.Images) -> Sum:
    """Few and small digits, in this process, as test_workers.py sees to the others."""
    monkeypatch.setattr(datasets, "digits", lambda: images)
    monkeypatch.setattr(datasets, "DIGITS_TRAIN", 300)
    monkeypatch.setattr(datasets, "FOLD", 200)
    monkeypatch.setattr(experiment, "COMPONENTS", (2, 3))
    monkeypatch.setattr(experiment, "CLASSIFIER", (2, 2, 1.0))
    monkeypatch.setattr(experiment, "SEEDS", (0, 1))
    monkeypatch.setattr(experiment, "RATES", (0.1, 0.3))
    monkeypatch.setattr(experiment, "BATCH_RATES", (0.1,))
    return Sum()


def run_all(jobs: list[tuple[Any, ...]], here: Sum) -> list[records.Record]:
    advance = here.bar("circuits", sum(job[1] for job in jobs))
    return [record for part in run_here(experiment.work, jobs, advance) for record in part]


def test_miniature_run_is_complete(here: Sum) -> None:
    found = run_all(experiment.digit_jobs(quick=False, epochs=6), here)
    assert here.done == pytest.approx(here.total)
    fits = {(fit.model, fit.seed) for fit in of_kind(found, Fit)}
    several = (records.SMALL, records.LARGE, records.CATEGORICAL, records.GAUSSIAN)
    assert fits == {(model, seed) for model in several for seed in experiment.SEEDS} | {
        (records.FACTORIZED, 0), (records.TREE, 0)
    }  # fmt: skip
    curves = {(c.optimizer, c.rate, c.batch) for c in of_kind(found, Curve)}
    assert curves == {("EM", None, None), ("EM", None, 64)} | {
        ("Adam", rate, None) for rate in experiment.RATES
    } | {("Adam", rate, 64) for rate in experiment.BATCH_RATES}  # fmt: skip
    result = summarize(circuits, found)
    assert len(result.claims) == 12 and not any(math.isnan(claim.measured) for claim in result.claims)
    assert len(result.tables) == 4 and len(result.figures) == 5


def test_miniature_mnist(here: Sum, folder: Path) -> None:
    found = run_all(experiment.mnist_jobs(folder, epochs=(2, 2), size=16), here)
    assert here.done == pytest.approx(here.total)
    result = summarize(circuits, found)
    names = [claim.text.split(":")[0] for claim in result.claims]
    assert names == ["MNIST, HCLT, M = 16", "MNIST, HCLT, M = 32", f"MNIST, {records.GROWN}"]
    assert [claim.expected for claim in result.claims] == ["≤ 1.245", "≤ 1.215", "≤ 1.18"]
    assert {row[1] for row in result.tables[0].rows} == {
        "HCLT, M = 16", "HCLT, M = 32", records.GROWN, "fully factorized", "Chow-Liu tree"
    }  # fmt: skip
    (gallery,) = of_kind(found, Gallery)
    assert gallery.data == "MNIST" and gallery.completed.truth.shape == (10, 16) and not gallery.parents
    pytest.importorskip("matplotlib")
    for figure in result.figures:
        assert report.png(figure).startswith(b"\x89PNG")


def test_claims_tell_what_was_measured() -> None:
    found = of_circuits(worse=False)
    claims, tables = circuits.claims.claims(found), circuits.claims.tables(found)
    assert len(claims) == 15 and claims[0].measured == pytest.approx(2.054)
    assert len(tables) == 4 and tables[0].rows[0][:2] == ["digits", "HCLT, M = 16"]
    assert len(circuits.plots.figures(found)) == 5
