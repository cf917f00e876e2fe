"""Probabilistic circuits: likelihoods and queries of a tree of latent variables on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...circuits import chow_liu, factorized, hclt, mutual_information, tree_parents
from ..harness import datasets, image_jobs
from ..harness.method import Progress
from ..harness.toy_models import EPOCHS, Advance, bits, chow_liu_bits, full_batch_em, mnist_grown, mnist_hclt
from . import peers, queries
from .records import (
    BATCH,
    BATCH_RATES,
    BAYES,
    CATEGORICAL,
    CLASSIFIER,
    COMPONENTS,
    FACTORIZED,
    GAUSSIAN,
    GROWN,
    RATES,
    SEEDS,
    SMALL,
    TREE,
    Accuracy,
    Curve,
    Fit,
    Gallery,
    Record,
)


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel, in processes with one thread each."""
    datasets.require_sklearn()
    return image_jobs.run("circuits", work, jobs(quick, data), progress)


def jobs(quick: bool, data: Path | None = None) -> list[tuple[Any, ...]]:
    """All jobs, the longest first. A job is a task, its number of progress steps, and its arguments."""
    return image_jobs.with_mnist(quick, data, digit_jobs(quick), mnist_jobs)


def digit_jobs(quick: bool, epochs: int = EPOCHS) -> list[tuple[Any, ...]]:
    """The jobs on digits, the longest first. A job is a task, its number of progress steps, and its arguments."""
    jobs: list[tuple[Any, ...]] = [] if quick else [("adam", epochs, rate, BATCH) for rate in BATCH_RATES]
    jobs += [("classify", 10), ("show", epochs), ("mixtures", 1)]
    jobs += [("adam", epochs, rate, datasets.DIGITS_TRAIN) for rate in (RATES[-2:] if quick else RATES)]
    jobs += [("hclt", epochs, latents, seed) for latents in ((8,) if quick else (16, 8)) for seed in SEEDS]
    jobs += [("em", epochs, None)] + ([] if quick else [("em", count, BATCH) for count in (epochs // 3, epochs)])
    return [*jobs, ("closed_form", 2)]


def mnist_jobs(folder: Path, epochs: tuple[int, int] = (15, 20), size: int = 512) -> list[tuple[Any, ...]]:
    """The jobs on MNIST, like :func:`digit_jobs`."""
    return [*image_jobs.mnist_models(folder, epochs, size), ("mnist_closed_form", 2, folder)]


def work(task: str, *arguments: Any) -> list[Record]:
    """Runs one job. The last argument advances the progress bar."""
    return TASKS[task](*arguments)


# --- tasks ---


def _hclt(epochs: int, latents: int, seed: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    circuit = hclt(images.train, latents, categories=images.categories, seed=seed)
    full_batch_em(circuit, images.train, epochs, 1.0, advance)
    return [Fit("digits", f"HCLT, M = {latents}", seed, bits(circuit, images.test), bits(circuit, images.train))]


def _closed_form(steps: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    found: list[Record] = []
    for name, build in ((FACTORIZED, factorized), (TREE, chow_liu)):
        circuit = build(images.train, categories=images.categories)
        found.append(Fit("digits", name, 0, bits(circuit, images.test), bits(circuit, images.train)))
        advance(1)
    return found


def _mixtures(steps: int, advance: Advance) -> list[Record]:
    """Mixtures. The last 200 training images choose the number of components; then all images are fitted."""
    images = datasets.digits()
    seen, held_out = images.train[: datasets.FOLD], images.train[datasets.FOLD :]
    found: list[Record] = []
    for name, measure in ((CATEGORICAL, peers.mixture_bits), (GAUSSIAN, peers.gaussian_bits)):
        count = min(COMPONENTS, key=lambda k: measure(seen, held_out, images.categories, k, 0))
        for seed in SEEDS:
            test = measure(images.train, images.test, images.categories, count, seed)
            found.append(Fit("digits", name, seed, test, detail=f"{count} components"))
    advance(1)
    return found


def _em(passes: int, batch: int | None, advance: Advance) -> list[Record]:
    images = datasets.digits()
    circuit = hclt(images.train, 8, categories=images.categories)
    return [Curve("EM", None, batch, peers.em_curve(circuit, images, batch, passes, advance))]


def _adam(passes: int, rate: float, batch: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    circuit = hclt(images.train, 8, categories=images.categories)
    curve = peers.adam_curve(circuit, images, rate, batch, passes, advance)
    return [Curve("Adam", rate, None if batch >= len(images.train) else batch, curve)]


def _classify(steps: int, advance: Advance) -> list[Record]:
    images = datasets.digits()
    found: list[Record] = [Accuracy(BAYES, queries.accuracy(images, *CLASSIFIER, advance))]
    return [*found, *(Accuracy(name, share) for name, share in peers.classifier_accuracies(images).items())]


def _show(epochs: int, advance: Advance) -> list[Record]:
    """Hidden halves and pictures, for the circuit of seed 0 and for models without latents."""
    images = datasets.digits()
    x, categories = images.train, images.categories
    circuit = full_batch_em(hclt(x, 8, categories=categories), x, epochs, 1.0, advance)
    models = {
        SMALL: circuit, TREE: chow_liu(x, categories=categories), FACTORIZED: factorized(x, categories=categories)
    }  # fmt: skip
    found: list[Record] = [queries.measure_halves(name, model, images) for name, model in models.items()]
    assert images.test_labels is not None
    rows = datasets.one_of_each(images.test_labels)
    parents = tree_parents(x, categories)
    strength = mutual_information(x, categories)[range(len(parents)), parents]
    samples = {name: model.sample(30, seed=0) for name, model in models.items()}
    pictures = queries.complete(circuit, images, rows)
    return [*found, Gallery("digits", categories, pictures, samples, parents, strength.tolist())]


def _mnist(epochs: int, folder: Path, latents: int, size: int, advance: Advance) -> list[Record]:
    images = datasets.mnist(folder)
    circuit = mnist_hclt(images, epochs, latents, size, advance)
    name = f"HCLT, M = {latents}"
    found: list[Record] = [Fit("MNIST", name, 0, bits(circuit, images.test), bits(circuit, images.train))]
    if latents == 16:
        pictures = queries.complete(circuit, images, range(10))
        found.append(Gallery("MNIST", images.categories, pictures, {name: circuit.sample(30, seed=0)}))
    return found


def _mnist_grown(passes: int, folder: Path, epochs: int, size: int, advance: Advance) -> list[Record]:  # fmt: skip
    images = datasets.mnist(folder)
    circuit, seen = mnist_grown(images, epochs, size, advance)
    return [Fit("MNIST", GROWN, 0, bits(circuit, images.test), bits(circuit, seen))]


def _mnist_closed_form(steps: int, folder: Path, advance: Advance) -> list[Record]:
    images = datasets.mnist(folder)
    independent = bits(factorized(images.train, categories=images.categories), images.test)
    advance(1)
    tree = chow_liu_bits(images.train, images.test, images.categories, 0.1)
    advance(1)
    return [Fit("MNIST", FACTORIZED, 0, independent), Fit("MNIST", TREE, 0, tree)]


TASKS: dict[str, Callable[..., list[Record]]] = {
    "hclt": _hclt, "closed_form": _closed_form, "mixtures": _mixtures, "em": _em, "adam": _adam,
    "classify": _classify, "show": _show, "mnist": _mnist, "mnist_grown": _mnist_grown,
    "mnist_closed_form": _mnist_closed_form,
}  # fmt: skip
