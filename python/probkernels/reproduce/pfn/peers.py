"""Classifiers on eight small tables: a prior-fitted network, and models of scikit-learn with their defaults."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...amortized import PFN, BernoulliHead, PFNClassifier, TabularBNNPrior
from ...uncertainty import ece
from ..harness import data_files
from .model import Advance, trained
from .records import PFN_NAME, Tabular

FEATURES, SHOTS, TESTED, SPLITS, BINS = 60, 15, 50, 20, 10  # shots and tested: of each class
Array = NDArray[Any]
Make = Callable[[], Any]


def tables(folder: Path) -> dict[str, tuple[Array, Array]]:
    """Inputs (N, F) and classes (N,) of every table."""
    arrays = data_files.load(folder, "small_tables")
    names = sorted(name.removesuffix("_X") for name in arrays if name.endswith("_X"))
    return {name: (arrays[f"{name}_X"].astype(np.float64), arrays[f"{name}_y"].astype(np.int64)) for name in names}


def compared(steps: int, seed: int, folder: Path, advance: Advance) -> list[Tabular]:
    """Trains a network on tables of random networks, and tests it and its peers on real tables."""
    model, makers = network(steps, seed, advance), sklearn_makers()
    makers = {PFN_NAME: lambda: PFNClassifier(model), **makers}
    found = []
    for name, (x, y) in tables(folder).items():
        splits = [split(x, y, number) for number in range(SPLITS)]
        found += [judged(name, title, make, splits, steps) for title, make in makers.items()]
    return found


def network(steps: int, seed: int, advance: Advance) -> PFN:
    """The network, trained on classes of ``TabularBNNPrior``."""
    torch.manual_seed(seed)
    model = PFN(FEATURES, BernoulliHead(), d=64, layers=4, heads=4, d_ff=128, normalize_x="context")
    options: dict[str, Any] = {"n_points": 50, "context_sizes": "uniform", "max_context": 40, "batch_size": 32}
    return trained(model, TabularBNNPrior(features=FEATURES), steps, seed, advance, **options)


def sklearn_makers() -> dict[str, Make]:
    """Models of scikit-learn on standardized inputs."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    makers: dict[str, Make] = {
        "logistic regression": lambda: LogisticRegression(max_iter=1000),
        "Gaussian process": lambda: GaussianProcessClassifier(ConstantKernel() * RBF(3.0)),
        "gradient boosting": lambda: GradientBoostingClassifier(random_state=0),
        "nearest neighbors": lambda: KNeighborsClassifier(),
    }

    def scaled(make: Make) -> Make:
        return lambda: make_pipeline(StandardScaler(), make())

    return {title: scaled(make) for title, make in makers.items()}


def split(x: Array, y: Array, seed: int) -> tuple[Array, Array, Array, Array]:
    """Balanced rows to train on and to test: x, y, x, y."""
    draw = np.random.default_rng(seed)
    own = [draw.permutation(np.flatnonzero(y == label)) for label in (0, 1)]
    train = np.concatenate([rows[:SHOTS] for rows in own])
    test = np.concatenate([rows[SHOTS : SHOTS + TESTED] for rows in own])
    return x[train], y[train], x[test], y[test]


def judged(table: str, title: str, make: Make, splits: Sequence[tuple[Array, ...]], steps: int) -> Tabular:
    """Mean AUC over splits; ECE of the predictions of all splits together."""
    from sklearn.metrics import roc_auc_score

    areas, probs, labels = [], [], []
    for x, y, new, truth in splits:
        if title == PFN_NAME:
            x, new = padded(x), padded(new)
        with warnings.catch_warnings():  # hyperparameters of the Gaussian process may end at their bounds
            warnings.simplefilter("ignore", UserWarning)
            p = make().fit(x, y).predict_proba(new)[:, 1]
        areas.append(float(roc_auc_score(truth, p)))
        probs.append(np.asarray(p, dtype=np.float64))
        labels.append(truth)
    every = torch.from_numpy(np.concatenate(probs)), torch.from_numpy(np.concatenate(labels))
    return Tabular(table, title, float(np.mean(areas)), ece(*every, bins=BINS).item(), steps)


def padded(x: Array) -> Array:
    """Columns of zeros up to the network's features, as in its prior."""
    return np.pad(x, ((0, 0), (0, FEATURES - x.shape[1])))
