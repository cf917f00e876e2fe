"""Fits priors and samples posteriors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ... import bnn
from ... import kernel_methods as km
from ..harness import data_files
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import BOSTON, EXACT, FITTED, FIXED, QUICK, RUNS, SETS, SPLITS, TOY, Drawn, Judged, Matched, Record

CHAINS, BURN_IN, SAMPLES = 4, 2000, 25
BOSTON_ITERATIONS, BOSTON_EVERY = 100, 100


def jobs(quick: bool) -> list[tuple[int, int, int]]:
    """Seed, iterations of the fit, steps from one sample of the posterior to the next."""
    return list(QUICK if quick else RUNS)


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Record]:
    """Runs all jobs in parallel; Boston too if its file is there and ``quick`` is not set."""
    todo = jobs(quick)
    found = run_jobs(work, todo, progress.bar("fitting", sum(steps + 2 * SETS for _, steps, _ in todo)))
    if data is not None and not quick:
        data_files.load(data, "uci_regression")  # a missing file is an error of this process
        splits = [(data, split) for split in SPLITS]
        found += run_jobs(work_boston, splits, progress.bar("Boston", len(splits)))
    return [record for records in found for record in records]


def work(seed: int, iterations: int, keep_every: int, advance: Callable[[float], None]) -> list[Record]:
    """Fits one prior and learns functions with it."""
    net = bnn.scaled_mlp((1, 50, 50, 1), "tanh")
    prior = bnn.GaussianPrior(net, std=math.log1p(math.e), learnable=True)
    matcher = bnn.FunctionalPriorMatcher(
        prior, toy.process(), toy.GRID, critic_steps=50, critic_lr=0.02, lr=0.05, seed=seed
    )
    found: list[Record] = [fit(TOY, seed, prior, matcher, iterations)]
    advance(iterations)
    for number in range(SETS):
        data = toy.draw(seed, number)
        found.append(Drawn(seed, number, *(t.flatten().tolist() for t in (data.x, data.y, toy.GRID, data.truth))))
        for name, own in ((FIXED, bnn.GaussianPrior(net)), (FITTED, prior)):
            samples = sample(own, data.x, data.y, seed, keep_every)
            f = samples.functions(toy.GRID)[..., 0]
            found.append(judge(seed, number, name, f.mean((0, 1)), f.flatten(0, 1).var(0), data.truth, worst(f)))
            advance(1)
        law = km.GPRegression(data.x, data.y[:, 0], 0.6, 1.0, toy.NOISE).predict(toy.GRID)
        found.append(judge(seed, number, EXACT, law.mean, law.variance, data.truth, 1.0))
    return found


def fit(
    data: str, seed: int, prior: bnn.GaussianPrior, matcher: bnn.FunctionalPriorMatcher, iterations: int
) -> Matched:
    """Fits a prior, with a smaller step in the last 30 % of iterations."""
    before = matcher.distances()
    report = matcher.fit(iterations, lr_schedule=lambda done: 1.0 if done < 0.7 else 0.4, report_every=10)
    prior.requires_grad_(False)
    trace = [(0, before["energy"]), *((step, found["energy"]) for step, found in report.distances)]
    std = {name: float(value) for name, value in prior.std.items()}
    return Matched(data, seed, report.wasserstein, trace, before, matcher.distances(), std)


def sample(
    prior: bnn.Prior, x: Tensor, y: Tensor, seed: int, keep_every: int, batch_size: int | None = None
) -> bnn.PosteriorSamples:
    """The posterior of four chains."""
    return bnn.sample_posterior(
        prior.module, prior, bnn.GaussianLikelihood(toy.NOISE), x, y, chains=CHAINS, burn_in=BURN_IN, samples=SAMPLES,
        keep_every=keep_every, batch_size=batch_size, seed=seed,
    )  # fmt: skip


def worst(f: Tensor) -> float:
    """The largest R-hat of function values (chains, samples, N)."""
    return float(bnn.rhat(f).max())


def judge(seed: int, number: int, prior: str, mean: Tensor, variance: Tensor, truth: Tensor, rhat: float) -> Judged:
    """Compares a posterior with the function."""
    rmse, nll = figures(mean, variance, truth)
    return Judged(TOY, seed, number, prior, rmse, nll, rhat, (mean.tolist(), variance.sqrt().tolist()))


def figures(mean: Tensor, variance: Tensor, truth: Tensor) -> tuple[float, float]:
    """RMSE, and the mean negative log density of normal distributions."""
    error = (mean - truth).square()
    nll = (error / variance + variance.log() + math.log(2 * math.pi)) / 2
    return float(error.mean().sqrt()), float(nll.mean())


def work_boston(folder: Path, split: int, advance: Callable[[float], None]) -> list[Record]:
    """One split of Boston: 100 points, 70 of them training inputs; minibatches of 32."""
    data = toy.boston(folder, split)
    inputs = data.x.shape[1]
    net = bnn.scaled_mlp((inputs, 100, 1), "tanh")
    prior = bnn.GaussianPrior(net, std=math.log1p(math.e), learnable=True)
    points = bnn.TrainingAndBox(data.x, 100, 0.7, others=data.x_test)
    matcher = bnn.FunctionalPriorMatcher(prior, toy.wide_process(inputs), points, critic_steps=50, seed=split)
    found: list[Record] = [fit(BOSTON, split, prior, matcher, BOSTON_ITERATIONS)]
    for name, own in ((FIXED, bnn.GaussianPrior(net)), (FITTED, prior)):
        samples = sample(own, data.x, data.y, split, BOSTON_EVERY, batch_size=32)
        mean, variance = samples.predict(data.x_test)
        rmse, nll = figures(mean * data.scale, variance * data.scale**2, data.y_test * data.scale)
        found.append(Judged(BOSTON, split, 0, name, rmse, nll, worst(samples.functions(data.x_test)[..., 0])))
    advance(1)
    return found
