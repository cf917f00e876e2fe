"""Trains on outcomes and goes on from the early-stopped network in several ways; measures released predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import uncertainty as un
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from . import model as toy
from .records import (
    CONTINUED,
    EARLY,
    FACES,
    KERNEL,
    LAST,
    MEASURES,
    OVERFIT,
    QUICK,
    SCENARIOS,
    SEEDS,
    SELECTED,
    Judged,
    Released,
)  # fmt: skip

START_EPOCHS, MORE_EPOCHS = 100, 60
BINS = un.CaPE("bin", bins=5, discrimination_epochs=2)
NEIGHBORS = un.CaPE("kernel", sigma=0.05, window=100, discrimination_epochs=3)
RELEASED = "prob_estimation_utkface"  # of the files of --data
OUTCOMES = un.CaPE("bin", bins=toy.TRAIN)  # as many bins as samples: the targets are the outcomes


def jobs(quick: bool) -> list[tuple[str, int, str]]:
    """Scenario, seed, and targets of CaPE."""
    if quick:
        return [(scenario, seed, "bin") for scenario, seed in QUICK]
    return [(scenario, seed, kind) for kind in ("bin", "kernel") for scenario in SCENARIOS for seed in SEEDS]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Judged | Released]:
    """Measures the released predictions if ``data`` holds them, and runs all jobs in parallel."""
    datasets.require_sklearn()
    wanted = data is not None and (not quick or data_files.has(data, RELEASED))
    faces = measure_released(data) if data is not None and wanted else []
    todo = jobs(quick)
    each = {"bin": START_EPOCHS + 2 * MORE_EPOCHS, "kernel": START_EPOCHS + MORE_EPOCHS}
    found = run_jobs(work, todo, progress.bar("training", sum(each[kind] for _, _, kind in todo)))
    return [*faces, *(record for records in found for record in records)]


def work(scenario: str, seed: int, kind: str, advance: Callable[[float], None]) -> list[Judged]:
    """Trains the networks of one job and judges them."""
    data, model = toy.draw(scenario, seed), toy.net(seed)

    def judged(way: str, state: dict[str, Tensor]) -> Judged:
        model.load_state_dict(state)
        return judge(model, data, scenario, way, seed)

    def trained(method: un.CaPE, epochs: int, lr: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The state of the lowest validation loss, and the last one."""
        done = method.fit(
            model, toy.sgd(model, lr), data.train, data.validation, epochs=epochs, batch_size=64, scheduler=None,
            seed=seed, progress=False,
        )  # fmt: skip
        advance(epochs)
        return {name: value.clone() for name, value in model.state_dict().items()}, done.last

    early, last = trained(OUTCOMES, START_EPOCHS, 0.02)
    if kind == "kernel":
        model.load_state_dict(early)
        return [judged(KERNEL, trained(NEIGHBORS, MORE_EPOCHS, 0.005)[1])]
    found = [judged(OVERFIT, last), judged(EARLY, early)]
    model.load_state_dict(early)
    found.append(judged(CONTINUED, trained(OUTCOMES, MORE_EPOCHS, 0.005)[1]))
    model.load_state_dict(early)
    best, last = trained(BINS, MORE_EPOCHS, 0.005)
    return [*found, judged(SELECTED, best), judged(LAST, last)]


def measure_released(folder: Path) -> list[Released]:
    """Measures the authors' predictions for faces."""
    arrays = data_files.load(folder, RELEASED)
    found = []
    for scenario, name in FACES:
        probs, truth = (torch.from_numpy(arrays[f"{scenario}_{key}"]).double() for key in (name, "p"))
        y = torch.from_numpy(arrays[f"{scenario}_y"]).long()
        two = torch.stack([1 - probs, probs], 1)
        values = un.mse_p(probs, truth), un.kl_p(probs, truth), un.brier(probs, y), un.ks(probs, y), un.auroc(probs, y)
        figures = dict(zip(MEASURES, map(float, (*values, un.nll(two, y))), strict=True))
        ece = float(un.ece(probs, y, equal="mass", weighted=False))
        identity = figures["brier"] - figures["mse_p"] - float((truth * (1 - truth)).mean())
        found.append(Released(scenario, name, figures, ece, identity))
    return found


@torch.no_grad()
def judge(model: nn.Module, data: toy.Data, scenario: str, way: str, seed: int) -> Judged:
    """Compares a network with the truth and with outcomes of the test set."""
    model.eval()
    x, y = data.test
    probs = model(x).double().softmax(1)[:, 1]
    ece = un.ece(probs, y, equal="mass", weighted=False)
    return Judged(scenario, way, seed, float(un.mse_p(probs, data.truth)), float(ece), float(un.brier(probs, y)))
