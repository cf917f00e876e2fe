"""h-calibration of drawn logits and of the logits of networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import uncertainty
from ...uncertainty.calibrators import Plan, train
from ...uncertainty.h_calibration import Settings
from ...uncertainty.mappings import CANDIDATES, MonotoneNetwork, build
from ..harness import data_files, image_jobs
from ..harness.method import Progress
from .records import (
    BEFORE,
    DENSENET,
    DRAWN,
    ENSEMBLE,
    LENET,
    LIKELIHOOD,
    LINEAR,
    MAPS,
    SEEDS,
    SELECTED,
    TS,
    WRN,
    Calibrated,
    selected,
)

DRAWN_EPOCHS, EPOCHS = 80, 300
MOST_EPOCHS = 2000  # of the selection, which stops early
# File, array, and the maps to fit.
NETWORKS = {
    DENSENET: ("calib_cifar100", "probs", (TS, LINEAR)),
    WRN: ("calib_cifar10", "wrn16_4", (TS, ENSEMBLE, LINEAR)),
    LENET: ("calib_cifar10", "lenet5", (TS, LINEAR)),
}
Advance = Callable[[float], None]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Calibrated]:
    """Runs all jobs in parallel."""
    found: list[Calibrated] = image_jobs.run("calibration", work, jobs(quick, data), progress)
    return selected(found)


def jobs(quick: bool, data: Path | None = None) -> list[tuple[Any, ...]]:
    """All jobs, the longest first. A job is a task, its number of progress steps, and its arguments."""
    ways = (TS,) if quick else (TS, ENSEMBLE, LINEAR)
    drawn_jobs: list[tuple[Any, ...]] = [("drawn", DRAWN_EPOCHS, seed, way) for way in ways for seed in SEEDS]
    if data is None or quick:
        return drawn_jobs
    for name in ("calib_cifar10", "calib_cifar100"):
        data_files.load(data, name)  # a file that cannot be used shows now
    return [*selection_jobs(data), *network_jobs(data), *drawn_jobs]


def network_jobs(folder: Path, epochs: int = EPOCHS) -> list[tuple[Any, ...]]:
    """The jobs on logits of networks."""
    return [("network", epochs, folder, name, way) for name, (_, _, ways) in NETWORKS.items() for way in ways]


def selection_jobs(folder: Path, epochs: int = MOST_EPOCHS) -> list[tuple[Any, ...]]:
    """The jobs of the selection over the twelve maps."""
    return [("selection", epochs, folder, name, kind, size) for name in NETWORKS for kind, size in CANDIDATES]


def work(task: str, *arguments: Any) -> list[Calibrated]:
    """Runs one job. The last argument advances the progress bar."""
    tasks: dict[str, Callable[..., list[Calibrated]]] = {"drawn": _drawn, "network": _network, "selection": _candidate}
    return tasks[task](*arguments)


def drawn(seed: int, samples: int = 5000, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Logits (N, C) that are twice as sure as the probabilities that drew the labels (N,)."""
    torch.manual_seed(seed)
    probs = torch.distributions.Dirichlet(torch.full((classes,), 0.3)).sample((samples,))
    return 2 * probs.clamp_min(1e-20).log(), torch.multinomial(probs, 1)[:, 0]


def network(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Logits (N, C), up to a constant in each row, and labels (N,), in random order."""
    file, array, _ = NETWORKS[name]
    data = data_files.load(folder, file)
    torch.manual_seed(0)
    order = torch.randperm(len(data["y"]))
    return torch.from_numpy(data[array]).log()[order], torch.from_numpy(data["y"]).long()[order]


def _drawn(epochs: int, seed: int, way: str, advance: Advance) -> list[Calibrated]:
    logits, labels = drawn(seed)
    kind, size = MAPS[way]
    calibrator = uncertainty.HCalibrator(kind, size=size, leave_one_out=False)
    calibrator.fit(logits, labels, epochs=epochs, lr=0.02, patience=None)
    advance(epochs)
    return _records(DRAWN, way, seed, calibrator, (logits, labels), (logits, labels), way == TS)


def _network(epochs: int, folder: Path, name: str, way: str, advance: Advance) -> list[Calibrated]:
    logits, labels = network(folder, name)
    half = len(logits) // 2
    kind, size = MAPS[way]
    calibrator = uncertainty.HCalibrator(kind, size=size).fit(
        logits[:half], labels[:half], epochs=epochs, patience=None
    )
    advance(epochs)
    parts = (logits[:half], labels[:half]), (logits[half:], labels[half:])
    return _records(name, way, 0, calibrator, *parts, way == TS)


def _candidate(epochs: int, folder: Path, name: str, kind: str, size: int, advance: Advance) -> list[Calibrated]:
    """One of the twelve maps, in its best epoch by each selection: one training serves all three."""
    logits, labels = network(folder, name)
    x, half = logits.log_softmax(1), len(logits) // 2
    plan = Plan(epochs, batch_size=5000, lr=5e-3, patience=160, seed=1357)  # the defaults of HCalibrator.fit
    map_ = build(kind, size, plan.seed)
    if isinstance(map_, MonotoneNetwork):
        map_.normalize_(x[:half])
    found = []
    for select, best in train(map_, x[:half], labels[:half], plan, Settings(), tuple(SELECTED)).items():
        map_.load_state_dict(best.state)
        with torch.no_grad():
            found.append(record(name, SELECTED[select], 0, logits[half:], map_(x[half:]), labels[half:]))
        found[-1].map, found[-1].score = f"{kind} {size}", best.score
    advance(epochs)
    return found


def _records(
    data: str,
    way: str,
    seed: int,
    calibrator: uncertainty.HCalibrator,
    fitted: tuple[Tensor, Tensor],
    measured: tuple[Tensor, Tensor],
    with_peers: bool,
) -> list[Calibrated]:
    """The record of a calibrator; one job of each data set adds those of what it is compared with."""
    logits, labels = measured
    with torch.no_grad():
        found = [record(data, way, seed, logits, calibrator(logits), labels)]
    if with_peers:
        assert calibrator.map is not None and isinstance(calibrator.map.a, Tensor)
        found[0].factor = calibrator.map.a.abs().item()
        peer = uncertainty.TemperatureScaling().fit(*fitted)
        assert peer.temperature is not None
        found.append(record(data, LIKELIHOOD, seed, logits, peer(logits), labels))
        found[-1].factor = 1 / peer.temperature.item()
        found.append(record(data, BEFORE, seed, logits, logits.log_softmax(1), labels))
    return found


def record(data: str, way: str, seed: int, logits: Tensor, log_probs: Tensor, labels: Tensor) -> Calibrated:
    """Measures log-probabilities that some way of calibration made of logits."""
    probs = log_probs.exp()
    bins = uncertainty.reliability(probs, labels)
    filled = bins.count > 0
    return Calibrated(
        data,
        way,
        seed,
        ece=uncertainty.ece(probs, labels).item(),
        mass_ece=uncertainty.ece(probs, labels, equal="mass").item(),
        ks=uncertainty.ks(probs, labels).item(),
        class_wise=uncertainty.ece(probs, labels, mode="class_wise").item(),
        nll=torch.nn.functional.nll_loss(log_probs, labels).item(),
        changed=int((log_probs.argmax(1) != logits.argmax(1)).sum()),
        loss=uncertainty.h_calibration_loss(probs, labels, leave_one_out=False).item(),
        bins=torch.stack([bins.confidence, bins.accuracy, bins.count], 1)[filled].tolist(),
    )
