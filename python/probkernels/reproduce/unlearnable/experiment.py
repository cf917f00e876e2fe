"""Protects images in several ways, and trains networks on them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from ... import uncertainty as un
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import EPS, FEATURES, QUICK, QUICK_SEEDS, SEEDS, Attack

OUTER, INNER, STEPS = 12, 5, 60  # trainings and steps after each; steps on pixels
STEP = 0.0625  # learning rate of the pixels; smaller ones for small eps
FEATURE_SIGMA, PIXEL_SIGMA = 0.3, 0.5
JUDGES = 3  # networks that are trained on all protected images


def jobs(quick: bool) -> list[tuple[str, int]]:
    """Way and seed, the longest first."""
    return [(way, seed) for way in (QUICK if quick else EPS) for seed in (QUICK_SEEDS if quick else SEEDS)]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Attack]:
    """Runs all jobs in parallel."""
    toy.digits()  # shows now whether scikit-learn is missing
    todo = jobs(quick)
    found: list[Attack] = run_jobs(work, todo, progress.bar("protecting", len(todo)))
    return found


def work(way: str, seed: int, advance: Callable[[float], None]) -> Attack:
    """Protects the training images in one way, and judges networks that are trained on them."""
    x, y, *test = toy.digits()
    protected, errors = protect(way, seed, x, y)
    first = 1000 * (seed + 1)  # networks that judge are others than those of the attack

    def judged(images: Tensor, labels: Tensor, number: int = 0) -> float:
        return toy.accuracy(toy.train(images, labels, first + number), *test)

    mixed, chosen = un.mix(x, protected, 0.5, torch.Generator().manual_seed(seed))
    found = Attack(way, seed, (protected - x).abs().max().item(), errors)
    found.clean, found.half, found.mixed = judged(x, y), judged(x[~chosen], y[~chosen]), judged(mixed, y)
    found.protected = fmean(judged(protected, y, number) for number in range(JUDGES))
    if way == FEATURES:
        features = toy.train(protected, y, first)[:-1](protected).detach()
        found.retrained = float(un.kernel_bayes_error(features, y, FEATURE_SIGMA, normalize=True))
    advance(1)
    return found


def protect(way: str, seed: int, x: Tensor, y: Tensor) -> tuple[Tensor, list[float]]:
    """Protected images, and the estimates before each step and after the last."""
    errors: list[float] = []
    seeds = itertools.count(100 * seed)
    trained: list[nn.Module] = [nn.ConstantPad1d((0, 1), 1.0)]  # the pixels, and 1: the largest, as the unit of sigma

    def features(images: Tensor, labels: Tensor) -> nn.Module:
        if way == FEATURES:
            trained[0] = toy.train(images, labels, next(seeds))[:-1]
        return trained[0]

    def note(step: int, error: float, images: Tensor) -> None:
        errors.append(error)

    sigma, turns = (FEATURE_SIGMA, (OUTER, INNER)) if way == FEATURES else (PIXEL_SIGMA, (1, STEPS))
    optimizer = functools.partial(torch.optim.AdamW, lr=min(EPS[way] / 4, STEP), weight_decay=0.0)
    protected = un.BayesErrorAscent(features, EPS[way], sigma, *turns, optimizer).protect(x, y, note)
    with torch.no_grad():
        last = un.kernel_bayes_error(trained[0](protected), y, sigma, normalize=True)
    return protected, [*errors, last.item()]
