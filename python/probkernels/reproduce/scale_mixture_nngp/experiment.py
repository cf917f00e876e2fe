"""Fits mixtures with three families of priors on every split, and chooses in each by validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernel_methods import Burr12, FixedScale, InverseGamma, MLPKernel, ScaleMixtureGP
from ..harness import data_files, datasets
from ..harness.method import Progress
from ..harness.workers import run_jobs
from .records import BURR, DIABETES, FAMILIES, FIXED, GAMMA, LARGE, SIZES, SPLITS, UCI, Compared

HELD = 46  # points for validation and as many for the test
DEPTH = 4
W_STD, B_STD = (1.0, 1.4, 2.0), (0.0, 0.3, 1.0)
NOISE = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
GAMMAS = tuple((a, b) for a in (1.0, 2.0, 3.0) for b in (1.0, 2.0, 3.0))
BURRS = ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (1.0, 2.0))
QUICK_SPLITS = SPLITS[:5]
UCI_SPLITS, LARGE_SPLITS = tuple(range(20)), (0, 1)
INDUCING = 200


def jobs(quick: bool) -> list[tuple[str, int, int]]:
    """Data set, number of training points (0: all) and split."""
    small = [(DIABETES, n, split) for n in SIZES for split in (QUICK_SPLITS if quick else SPLITS)]
    tables = [(name, 0, split) for name in UCI for split in UCI_SPLITS]
    large = [(name, 0, split) for name in LARGE for split in LARGE_SPLITS]
    return small if quick else [*small, *tables, *large]


def measure(quick: bool, data: Path | None, progress: Progress) -> list[Compared]:
    """Runs all jobs in parallel; those of UCI data if ``data`` is given."""
    datasets.require_sklearn()
    todo = [(*job, data) for job in jobs(quick) if job[0] == DIABETES or data is not None]
    if data is not None and not quick:
        data_files.load(data, "uci_regression")  # a missing file shows before the work
    return run_jobs(work, todo, progress.bar("fitting", len(todo)))


def load(data: str, n: int, split: int, folder: Path | None) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Inputs, targets, and the places of training, validation and test points."""
    random = np.random.RandomState(split)
    if data == DIABETES:
        from sklearn.datasets import load_diabetes

        X, y = load_diabetes(return_X_y=True)
        order = random.permutation(len(y))
        return X, y, [order[2 * HELD : 2 * HELD + n], order[HELD : 2 * HELD], order[:HELD]]
    assert folder is not None
    tables = data_files.load(folder, "uci_regression")
    X, y, test = tables[f"{data}_X"], tables[f"{data}_y"], tables[f"{data}_test"][split]
    others = random.permutation(np.setdiff1d(np.arange(len(y)), test))
    held = len(others) // 10
    return X, y, [others[held:], others[:held], test]


def work(data: str, n: int, split: int, folder: Path | None, advance: Callable[[float], None]) -> Compared:
    """Compares the families on one split."""
    X, y, parts = load(data, n, split, folder)
    train = parts[0]
    spread, unit = X[train].std(0), y[train].std()
    inputs = torch.from_numpy((X - X[train].mean(0)) / np.where(spread > 0, spread, 1))
    targets = torch.from_numpy((y - y[train].mean()) / unit)
    found = compare(inputs, targets, parts, INDUCING if data in LARGE else None)
    advance(1)
    nll = {family: loss + float(np.log(unit)) for family, (loss, _, _) in found.items()}
    return Compared(data, len(train), split, nll, found[GAMMA][1], found[GAMMA][2] * float(unit))


def compare(
    X: Tensor, y: Tensor, parts: list[np.ndarray], inducing: int | None = None
) -> dict[str, tuple[float, float, float]]:
    """Test NLL, E[sigma^2 | y] and RMSE of each family's model with the least validation loss."""
    if inducing is None:  # points are places in the kernel
        at = [(torch.from_numpy(part).double()[:, None], y[part]) for part in parts]
    else:
        at = [(X[part], y[part]) for part in parts]
    families: dict[str, list[Any]] = {
        FIXED: [FixedScale(1.0)],
        GAMMA: [InverseGamma(a, b) for a, b in GAMMAS],
        BURR: [Burr12(c, d) for c, d in BURRS],
    }
    every = [prior for priors in families.values() for prior in priors]
    owners = [family for family, priors in families.items() for _ in priors]
    least = dict.fromkeys(FAMILIES, float("inf"))
    found: dict[str, tuple[float, float, float]] = {}
    for w_std in W_STD:
        for b_std in B_STD:
            kernel: Any = MLPKernel(DEPTH, w_std=w_std, b_std=b_std).requires_grad_(False)
            kernel = _table(kernel(X)) if inducing is None else kernel
            for noise in NOISE:
                model = ScaleMixtureGP(kernel, noise=noise, inducing=inducing).fit(*at[0])
                losses = model.losses(*at[1], every)
                for loss, prior, family in zip(losses, every, owners, strict=True):
                    if loss < least[family]:
                        least[family] = loss
                        found[family] = _judge(model.set_prior(prior), *at[2])
    return found


def _table(whole: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A kernel of places, from its matrix, which serves all noises and splits of the data."""
    return lambda x, z: whole[x[:, 0].long()][:, z[:, 0].long()]


def _judge(model: ScaleMixtureGP, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    error = (model.predict(x).mean - y).square().mean().sqrt()
    return model.loss(x, y), float(model.scale()), float(error)
