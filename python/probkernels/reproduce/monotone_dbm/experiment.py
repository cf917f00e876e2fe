"""Trains machines on random masks, judges them and the models beside them, and counts iterations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...energy import MonotoneDBM, random_mask
from ...training import minimize
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import (
    ALPHAS,
    FREE,
    LOGISTIC,
    LONG,
    MIDDLE,
    MODE,
    MONOTONE,
    NONE,
    SHORT,
    Completed,
    Iterated,
    Judged,
    Record,
)

BATCH, LR = 128, 3e-3


def jobs(quick: bool) -> list[tuple[str, int]]:
    """What is trained, for how many epochs; the last is the iteration on groups that repel each other."""
    short = [(MONOTONE, SHORT), (LOGISTIC, 0), ("iterations", 0)]
    return short if quick else [*short, (MONOTONE, LONG), (FREE, MIDDLE)]


def measure(quick: bool, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel."""
    toy.datasets.require_sklearn()
    todo = jobs(quick)
    found = run_jobs(work, todo, progress.bar("training", sum(max(1, epochs) for _, epochs in todo)))
    return [record for records in found for record in records]


def work(way: str, epochs: int, advance: Callable[[float], None]) -> list[Record]:
    """Runs one job."""
    if way == "iterations":
        found: list[Record] = [iterate(alpha) for alpha in ALPHAS]
    elif way == LOGISTIC:
        found = beside()
    else:
        return trained(way, epochs, advance)
    advance(1)
    return found


def iterate(alpha: float) -> Iterated:
    """Counts the iterations at one alpha."""
    model = toy.repelling()
    model.alpha = alpha
    shape = 1, len(model.sizes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = model.infer(torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool))
    return Iterated(alpha, int(found.iterations), float(found.residual), found.converged)


def masks(count: int, generator: torch.Generator | None = None, share: float = toy.SHARE) -> Tensor:
    """Which groups are observed, (count, 129): some pixels, and no other group."""
    observed = torch.zeros(count, len(toy.SIZES), dtype=torch.bool)
    observed[:, : toy.PIXELS] = random_mask((count, toy.PIXELS), share, generator)
    return observed


def trained(way: str, epochs: int, advance: Callable[[float], None]) -> list[Record]:
    """Trains a machine and judges it."""
    pixels, test, labels, test_labels = toy.digits()
    model, target = toy.machine(way), toy.query(pixels, labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    generator = torch.Generator().manual_seed(0)
    steps, counts, order = len(pixels) // BATCH, [], torch.empty(0)

    def loss(step: int) -> Tensor:
        nonlocal order
        if step % steps == 0:
            order = torch.randperm(len(pixels), generator=generator)
        some = target[order[step % steps * BATCH :][:BATCH]]
        return model.loss(some, masks(BATCH, generator), some, label=toy.LABEL, gamma=0, balanced=False)

    def after(step: int, value: float) -> None:
        if (step + 1) % steps == 0:
            with torch.no_grad():
                counts.append(float(model.infer(target[:BATCH], masks(BATCH, generator)).iterations.double().mean()))
            advance(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where a machine without the constraint does not converge
        minimize(loss, optimizer, epochs * steps, after=after)
        return judge(model, test, test_labels, way, epochs, counts)


@torch.no_grad()
def judge(model: MonotoneDBM, test: Tensor, labels: Tensor, way: str, epochs: int, counts: list[float]) -> list[Record]:
    """Completes and classifies the test set; keeps a few completions."""
    states, observed = toy.query(test), masks(len(test), torch.Generator().manual_seed(1))
    completed = model.complete(states, observed)
    missing = ~observed[:, : toy.PIXELS]
    pixels = (completed[:, : toy.PIXELS] == test)[missing].double().mean()
    some = (completed[:, toy.LABEL] == labels).double().mean()
    every = (model.classify(states, masks(len(test), share=1.0), toy.LABEL) == labels).double().mean()
    found: list[Record] = [Judged(way, epochs, float(some), float(pixels), float(every), model.min_eig(), counts)]
    if way == MONOTONE:
        seen = torch.where(missing, -1, test)
        found.append(Completed(*(t[:8].tolist() for t in (seen, completed[:, : toy.PIXELS], test))))
    return found


def beside() -> list[Record]:
    """A logistic regression on one-hot pixels and masks of eight masked copies, and the most frequent levels."""
    from sklearn.linear_model import LogisticRegression

    pixels, test, labels, test_labels = toy.digits()
    generator = torch.Generator().manual_seed(0)

    def features(images: Tensor, observed: Tensor) -> Any:
        one_hot = torch.nn.functional.one_hot(images, toy.LEVELS) * observed[:, : toy.PIXELS, None]
        return one_hot.flatten(1).numpy()

    def accuracy(share: float) -> float:
        copies = 8 if share < 1 else 1
        many, of_many = pixels.repeat(copies, 1), labels.repeat(copies)
        fit = LogisticRegression(C=0.1, max_iter=200)
        fit.fit(features(many, masks(len(many), generator, share)), of_many.numpy())
        seen = masks(len(test), torch.Generator().manual_seed(1), share)
        return float((torch.tensor(fit.predict(features(test, seen))) == test_labels).double().mean())

    missing = ~masks(len(test), torch.Generator().manual_seed(1))[:, : toy.PIXELS]
    mode = (pixels.mode(0).values == test)[missing].double().mean()
    return [Judged(LOGISTIC, 0, accuracy(toy.SHARE), NONE, accuracy(1.0)), Judged(MODE, 0, NONE, float(mode), NONE)]
