"""Probabilistic circuits: how well a tree of latent variables compresses images, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..circuits import EM, Circuit, PiecewiseLinear, chow_liu, factorised, grow, hclt, mutual_information, tree_parents
from ..circuits.schedule import Schedule
from . import _circuits_data as data_sets
from . import _circuits_peers as peers
from . import _circuits_queries as queries
from ._circuits_data import Images, bits
from ._circuits_queries import Gallery, Halves
from ._method import Method, Progress, Result
from ._workers import run_jobs

METHOD = Method(
    title="Lossless Compression with Probabilistic Circuits",
    paper="Liu, Mandt, Van den Broeck. ICLR 2022, arXiv:2111.11632",
    experiment=(
        "A hidden Chow-Liu tree (HCLT: the Chow-Liu tree of the pixels, with a latent of M states above each) is"
        " fitted by EM to scikit-learn's 8 × 8 digits in 17 levels: the first 1,297 train, the last 500, by other"
        " writers, test. Bits per dimension (-log2 p of an image over its pixels) are what a lossless code of it would"
        " need. The same circuit completes half-hidden digits, and one circuit a class tells them apart. With --data,"
        " MNIST in 256 levels too."
    ),
)

SEEDS = (0, 1, 2)
EPOCHS = 60
ANNEALED = PiecewiseLinear(((0.0, 0.8), (0.5, 0.1), (1.0, 0.01)))  # steps of mini-batches; inertia is one minus it
AFTER_GROWTH = PiecewiseLinear(((0.0, 0.3), (1.0, 0.01)))
DOUBLINGS, HELD_OUT = 3, 0.05  # from M = 16 to 128; the share of training images that chooses each one's best epoch
COMPONENTS = (10, 20, 40)  # of mixtures, from which held-out training images choose
RATES = (0.1, 0.2, 0.3, 0.5)  # of Adam on all images
BATCH = 64
BATCH_RATES = (0.03, 0.1, 0.2)  # of Adam on batches
CLASSIFIER = (2, 20, 2.0)  # latent states, epochs and pseudocount; chosen on the last 200 training images

SMALL, LARGE, FACTORISED, TREE = "HCLT, M = 8", "HCLT, M = 16", "fully factorised", "Chow-Liu tree"
GROWN = "HCLT grown from M = 16 to 128"
CATEGORICAL, GAUSSIAN = "categorical mixture", "Gaussian mixture"
BAYES = "a circuit a class"

# Test bits per dimension of another program. Its Chow-Liu tree of the digits smooths joint histograms, ours the
# conditional ones.
EXPECTED = {
    ("digits", SMALL): "2.050 to 2.058",
    ("digits", LARGE): "2.049 to 2.050",
    ("digits", FACTORISED): "2.394",
    ("digits", TREE): "2.431",
    ("MNIST", LARGE): "1.2413",
    ("MNIST", "HCLT, M = 32"): "1.2113",
    ("MNIST", GROWN): "1.14 with sparse layers that grow (Dang et al., NeurIPS 2022)",
}


@dataclass
class Fit:
    """A model's bits per dimension."""

    data: str
    model: str
    seed: int
    test: float
    train: float | None = None
    detail: str = ""


@dataclass
class Curve:
    """Test bits per dimension after each pass over the training digits."""

    optimiser: str
    rate: float | None
    batch: int | None
    bits: list[float]


@dataclass
class Accuracy:
    """Share of the test digits put in their class."""

    model: str
    share: float


Record = Fit | Curve | Accuracy | Halves | Gallery
Kind = TypeVar("Kind", bound=Record)
Advance = Callable[[float], None]


def run(quick: bool, data: Path | None, progress: Progress) -> Result:
    """Digits, and MNIST if there is a folder with it; ``quick`` is digits only, without M = 16, mini-batches and
    half of Adam's rates.
    """
    data_sets.require_sklearn()
    jobs = digit_jobs(quick)
    if data is not None and not quick:
        data_sets.mnist(data)  # a file that cannot be used shows now, not after the digits
        jobs = mnist_jobs(data) + jobs
    return summarise(run_all(jobs, progress))


def digit_jobs(quick: bool, epochs: int = EPOCHS) -> list[tuple[Any, ...]]:
    """Each is a task, the steps it moves the progress bar by, and its arguments; the longest first."""
    jobs: list[tuple[Any, ...]] = [] if quick else [("adam", epochs, rate, BATCH) for rate in BATCH_RATES]
    jobs += [("classify", 10), ("show", epochs), ("mixtures", 1)]
    jobs += [("adam", epochs, rate, data_sets.DIGITS_TRAIN) for rate in (RATES[-2:] if quick else RATES)]
    jobs += [("hclt", epochs, latents, seed) for latents in ((8,) if quick else (16, 8)) for seed in SEEDS]
    jobs += [("em", epochs, None)] + ([] if quick else [("em", count, BATCH) for count in (epochs // 3, epochs)])
    return [*jobs, ("closed_form", 2)]


def mnist_jobs(folder: Path, epochs: tuple[int, int] = (15, 20), size: int = 512) -> list[tuple[Any, ...]]:
    """See :func:`digit_jobs`."""
    half = epochs[1] // 2
    return [
        ("mnist_grown", half * (1 + DOUBLINGS), folder, half, size),
        ("mnist", epochs[0], folder, 32, size),
        ("mnist", epochs[1], folder, 16, size),
        ("mnist_closed_form", 2, folder),
    ]


def run_all(jobs: Sequence[tuple[Any, ...]], progress: Progress) -> list[Record]:
    """What all jobs found, side by side in processes of one thread each."""
    parts = run_jobs(work, jobs, progress.bar("circuits", sum(job[1] for job in jobs)))
    return [record for part in parts for record in part]


def work(task: str, *arguments: Any) -> list[Record]:
    """One job; the last argument moves the progress bar on."""
    return TASKS[task](*arguments)


# --- tasks ---


def _hclt(epochs: int, latents: int, seed: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    circuit = hclt(images.train, latents, categories=images.categories, seed=seed)
    peers.full_batch_em(circuit, images.train, epochs, 1.0, advance)
    return [Fit("digits", f"HCLT, M = {latents}", seed, bits(circuit, images.test), bits(circuit, images.train))]


def _closed_form(steps: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    found: list[Record] = []
    for name, build in ((FACTORISED, factorised), (TREE, chow_liu)):
        circuit = build(images.train, categories=images.categories)
        found.append(Fit("digits", name, 0, bits(circuit, images.test), bits(circuit, images.train)))
        advance(1)
    return found


def _mixtures(steps: int, advance: Advance) -> list[Record]:
    """The number of components is chosen on the last 200 training images, then all of them are fitted."""
    images = data_sets.digits()
    seen, held_out = images.train[: data_sets.FOLD], images.train[data_sets.FOLD :]
    found: list[Record] = []
    for name, measure in ((CATEGORICAL, peers.mixture_bits), (GAUSSIAN, peers.gaussian_bits)):
        count = min(COMPONENTS, key=lambda k: measure(seen, held_out, images.categories, k, 0))
        for seed in SEEDS:
            test = measure(images.train, images.test, images.categories, count, seed)
            found.append(Fit("digits", name, seed, test, detail=f"{count} components"))
    advance(1)
    return found


def _em(passes: int, batch: int | None, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    circuit = hclt(images.train, 8, categories=images.categories)
    return [Curve("EM", None, batch, peers.em_curve(circuit, images, batch, passes, advance))]


def _adam(passes: int, rate: float, batch: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    circuit = hclt(images.train, 8, categories=images.categories)
    curve = peers.adam_curve(circuit, images, rate, batch, passes, advance)
    return [Curve("Adam", rate, None if batch >= len(images.train) else batch, curve)]


def _classify(steps: int, advance: Advance) -> list[Record]:
    images = data_sets.digits()
    found: list[Record] = [Accuracy(BAYES, queries.accuracy(images, *CLASSIFIER, advance))]
    return [*found, *(Accuracy(name, share) for name, share in peers.classifier_accuracies(images).items())]


def _show(epochs: int, advance: Advance) -> list[Record]:
    """Hidden halves and pictures, of the circuit of seed 0 and of what has no latents."""
    images = data_sets.digits()
    x, categories = images.train, images.categories
    circuit = peers.full_batch_em(hclt(x, 8, categories=categories), x, epochs, 1.0, advance)
    models = {
        SMALL: circuit, TREE: chow_liu(x, categories=categories), FACTORISED: factorised(x, categories=categories)
    }  # fmt: skip
    found: list[Record] = [queries.measure_halves(name, model, images) for name, model in models.items()]
    assert images.test_labels is not None
    rows = data_sets.one_of_each(images.test_labels)
    parents = tree_parents(x, categories)
    strength = mutual_information(x, categories)[range(len(parents)), parents]
    samples = {name: model.sample(30, seed=0) for name, model in models.items()}
    pictures = queries.complete(circuit, images, rows)
    return [*found, Gallery("digits", categories, pictures, samples, parents, strength.tolist())]


def mnist_hclt(images: Images, epochs: int, latents: int, size: int, advance: Advance) -> Circuit:
    """An HCLT of batches of ``size``; ``advance`` moves on by 1 an epoch."""
    batches = max(len(images.train) // size, 1)
    circuit = hclt(images.train, latents, categories=images.categories)
    step = peers.ticking(ANNEALED, lambda amount: advance(amount / batches))
    EM(circuit, step=step, pseudocount=0.1, batch_size=size).fit(images.train, epochs=epochs, progress=False)
    return circuit


def _mnist(epochs: int, folder: Path, latents: int, size: int, advance: Advance) -> list[Record]:
    images = data_sets.mnist(folder)
    circuit = mnist_hclt(images, epochs, latents, size, advance)
    name = f"HCLT, M = {latents}"
    found: list[Record] = [Fit("MNIST", name, 0, bits(circuit, images.test), bits(circuit, images.train))]
    if latents == 16:
        pictures = queries.complete(circuit, images, range(10))
        found.append(Gallery("MNIST", images.categories, pictures, {name: circuit.sample(30, seed=0)}))
    return found


def mnist_grown(images: Images, epochs: int, size: int, advance: Advance) -> tuple[Circuit, Tensor]:
    """An HCLT whose latents double their states again and again, each time trained until held-out images get worse;
    and the images that it has seen.
    """
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
    held_out, seen = (images.train[part] for part in order.tensor_split([int(HELD_OUT * len(order))]))
    batches = max(len(seen) // size, 1)

    def train(circuit: Circuit, schedule: Schedule) -> None:
        step = peers.ticking(schedule, lambda amount: advance(amount / batches))
        em = EM(circuit, step=step, pseudocount=0.1, batch_size=size)
        em.fit(seen, validation=held_out, epochs=epochs, progress=False)

    circuit = hclt(seen, 16, categories=images.categories)
    train(circuit, ANNEALED)
    for seed in range(DOUBLINGS):
        circuit = grow(circuit, seed=seed)
        train(circuit, AFTER_GROWTH)
    return circuit, seen


def _mnist_grown(passes: int, folder: Path, epochs: int, size: int, advance: Advance) -> list[Record]:  # fmt: skip
    images = data_sets.mnist(folder)
    circuit, seen = mnist_grown(images, epochs, size, advance)
    return [Fit("MNIST", GROWN, 0, bits(circuit, images.test), bits(circuit, seen))]


def _mnist_closed_form(steps: int, folder: Path, advance: Advance) -> list[Record]:
    images = data_sets.mnist(folder)
    independent = bits(factorised(images.train, categories=images.categories), images.test)
    advance(1)
    tree = data_sets.chow_liu_bits(images.train, images.test, images.categories, 0.1)
    advance(1)
    return [Fit("MNIST", FACTORISED, 0, independent), Fit("MNIST", TREE, 0, tree)]


TASKS: dict[str, Callable[..., list[Record]]] = {
    "hclt": _hclt, "closed_form": _closed_form, "mixtures": _mixtures, "em": _em, "adam": _adam,
    "classify": _classify, "show": _show, "mnist": _mnist, "mnist_grown": _mnist_grown,
    "mnist_closed_form": _mnist_closed_form,
}  # fmt: skip


# --- what they show ---


def of_kind(records: Sequence[Record], kind: type[Kind]) -> list[Kind]:
    """The records of one kind, in order."""
    return [record for record in records if isinstance(record, kind)]


def summarise(records: Sequence[Record]) -> Result:
    """Claims, tables and pictures."""
    from . import _circuits_plots as plots
    from ._circuits_claims import claims, tables

    return Result(claims(records), tables(records), plots.figures(records))


def mean_bits(records: Sequence[Record], data: str, model: str) -> float:
    """Test bits per dimension, mean of the seeds; NaN if there is no such model."""
    found = [fit.test for fit in of_kind(records, Fit) if (fit.data, fit.model) == (data, model)]
    return fmean(found) if found else float("nan")


def best_curve(records: Sequence[Record], optimiser: str, full: bool, passes: int | None = None) -> Curve | None:
    """The curve that comes lowest of those of so many passes, or None. ``full``: of those with steps on all images.

    Of Adam's rates and passes the test images choose, which is in its favour.
    """
    curves = [c for c in of_kind(records, Curve) if c.optimiser == optimiser and (c.batch is None) == full]
    curves = [c for c in curves if passes is None or len(c.bits) == passes]
    return min(curves, key=lambda curve: min(curve.bits), default=None)
