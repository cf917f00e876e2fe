"""Trains a CNP and an MPNP on tasks, and judges them by marginal and joint densities of new tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...amortized import CNP as CNPModel
from ...amortized import MPNP as MPNPModel
from ...amortized import NeuralProcess, fit_neural_process
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .model import Constants, Functions
from .records import CNP, CONSTANTS, FEW, FUNCTIONS, MPNP, RBF, SEEDS, SETTINGS, TESTS, WAYS, Judged

STEPS = {
    (FEW, CNP): 1500, (FEW, MPNP): 1500, (CONSTANTS, CNP): 7500, (CONSTANTS, MPNP): 4000,
    (FUNCTIONS, CNP): 2000, (FUNCTIONS, MPNP): 2000,
}  # fmt: skip
TARGETS, TASKS, MOST = 10, 500, 20
TRAINING: dict[str, dict[str, Any]] = {
    FEW: {"batch_size": 16, "n_context": (1, 2), "n_target": (TARGETS, TARGETS), "most_points": None, "lr": 3e-3},
    CONSTANTS: {"batch_size": 32, "n_context": (1, 5), "n_target": (TARGETS, TARGETS), "most_points": None, "lr": 1e-3},
    FUNCTIONS: {"batch_size": 16, "n_context": (3, MOST - 4), "n_target": (3, MOST - 4), "most_points": MOST - 1},
}
WIDTH = {FEW: 32, CONSTANTS: 32, FUNCTIONS: 64}

Job = tuple[str, str, int]


def jobs(quick: bool) -> list[Job]:
    """Setting, way and seed. Only the smallest setting has several seeds."""
    if quick:
        return [(FEW, way, 0) for way in WAYS]
    return [
        (setting, way, seed) for setting in SETTINGS for way in WAYS for seed in SEEDS[: 3 if setting == FEW else 1]
    ]


def measure(quick: bool, progress: Progress) -> list[Judged]:
    """Runs all jobs in parallel."""
    todo = jobs(quick)
    return run_jobs(work, todo, progress.bar("training", sum(STEPS[setting, way] for setting, way, _ in todo)))


def work(setting: str, way: str, seed: int, advance: Callable[[float], None]) -> Judged:
    """Trains one model and judges it."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"width": WIDTH[setting], "heads": 4, "encoders": 1}
    model = CNPModel(1, **options) if way == CNP else MPNPModel(1, n_pseudo=1, **options)
    prior = Functions(RBF) if setting == FUNCTIONS else Constants()
    steps = STEPS[setting, way]
    fit_neural_process(
        model, prior, steps, **TRAINING[setting], n_samples=16, seed=seed, after=lambda step, loss: advance(1)
    )
    judge = judge_functions if setting == FUNCTIONS else judge_constants
    return Judged(setting, way, seed, steps, {test: judge(model, test) for test in TESTS[setting]})


def judge_constants(model: NeuralProcess, test: str) -> tuple[float, float]:
    """Marginal and joint log density a target, for n contexts; both models see the same tasks."""
    n = int(test.removeprefix("n="))
    generator = torch.Generator().manual_seed(1000 + n)
    return _density(model, *Constants().sample(TASKS, n + TARGETS, generator), n, 200, generator)


def judge_functions(model: NeuralProcess, test: str) -> tuple[float, float]:
    """Means over batches with numbers of contexts and targets as in training."""
    generator = torch.Generator().manual_seed(2000)
    prior, found = Functions(test), []
    for _ in range(TASKS // 20):
        n = int(torch.randint(3, MOST - 3, (), generator=generator))
        m = int(torch.randint(3, MOST - n, (), generator=generator)) if n < MOST - 4 else 3
        found.append(_density(model, *prior.sample(20, n + m, generator), n, 50, generator))
    marginal, joint = torch.tensor(found).mean(0).tolist()
    return marginal, joint


@torch.no_grad()
def _density(
    model: NeuralProcess, x: torch.Tensor, y: torch.Tensor, n: int, functions: int, generator: torch.Generator
) -> tuple[float, float]:
    model.eval()
    found = model(x[:, :n], y[:, :n], x[:, n:], n_samples=functions, generator=generator)
    targets = y[:, n:]
    return float(found.log_prob(targets).mean()), float(found.joint_log_prob(targets).mean()) / targets.shape[1]
