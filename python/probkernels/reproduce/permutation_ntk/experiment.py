"""Trains ensembles of finite width, and draws means of infinitely wide networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...kernel_methods import PermutationEnsemble, ensemble_size, permutation_moments, round_sign, success_probability
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .records import COUNTS, LARGE, NTK, STANDARD, Drawn, Trained

DRAWS = 4000
SMALL, BIG = (5, 2048, 400), (10, 4096, 200)  # bits, hidden units, networks
SURE = 0.9


def jobs(quick: bool) -> list[tuple[str, int, int, int, int]]:
    """Parameterization, bits, hidden units, networks and seed."""
    found = [(way, *SMALL, seed) for seed in ((0,) if quick else (0, 1, 2)) for way in (NTK, STANDARD)]
    return found if quick else [*found, *((way, *BIG, 0) for way in (NTK, STANDARD))]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Trained | Drawn]:
    """Runs all jobs in parallel, then the draws. No data are needed."""
    todo = jobs(quick)
    return [*run_jobs(work, todo, progress.bar("ensembles", len(todo))), *(draw(k) for k in LARGE)]


def work(
    parameterization: str, k: int, width: int, n_models: int, seed: int, advance: Callable[[float], None]
) -> Trained:
    """Trains one ensemble on a random permutation."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(k, generator=generator)
    ensemble = PermutationEnsemble(k, width, n_models, parameterization, generator=generator).fit(order)
    pairs = torch.combinations(torch.arange(k))
    x = torch.zeros(len(pairs), k, dtype=torch.long).scatter(1, pairs, 1)
    with torch.no_grad():
        outputs = ensemble.each(x).double()
    truth = x[:, order]
    on = truth.bool()
    exact = {count: exactness(outputs, truth, count) for count in (*COUNTS, n_models) if count <= n_models}
    advance(1)
    variance = float(outputs.var(0).mean())
    one, zero = float(outputs[:, on].mean()), float(outputs[:, ~on].mean())
    return Trained(parameterization, k, width, n_models, seed, one, zero, variance, exact)


def exactness(outputs: Tensor, truth: Tensor, count: int) -> float:
    """Share of inputs and disjoint groups of ``count`` networks whose mean has all bits right; outputs (E, T, k)."""
    groups = outputs[: len(outputs) // count * count].unflatten(0, (-1, count)).mean(1)
    return float((round_sign(groups, 0.0) == truth).all(-1).double().mean())


def needed(k: int, kind: str = "ntk") -> int:
    """The least number of networks whose mean is right with probability 0.9 at an input with two ones."""
    low, high = 0, 1
    while success_probability(k, 2, high, kind) < SURE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if success_probability(k, 2, middle, kind) >= SURE else (middle, high)
    return high


def draw(k: int) -> Drawn:
    """Draws means of infinitely wide networks at an input with two ones."""
    generator = torch.Generator().manual_seed(k)
    one, zero, variance = permutation_moments(k, 2)
    networks = needed(k)
    truth = (torch.arange(k) < 2).long()
    noise = torch.randn(DRAWS, k, generator=generator, dtype=torch.float64) * math.sqrt(variance / networks)
    right = (round_sign(torch.where(truth > 0, one, zero) + noise, 0.0) == truth).all(1).double().mean()
    return Drawn(k, networks, float(right), ensemble_size(k), ensemble_size(k, inputs=2**k - 1))
