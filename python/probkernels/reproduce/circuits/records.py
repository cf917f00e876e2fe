"""Names of the models, the records of the jobs, and the expected figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from torch import Tensor

from ..harness.records import of_kind

SEEDS = (0, 1, 2)
COMPONENTS = (10, 20, 40)  # of mixtures, from which held-out training images choose
RATES = (0.1, 0.2, 0.3, 0.5)  # of Adam on all images
BATCH = 64
BATCH_RATES = (0.03, 0.1, 0.2)  # of Adam on batches
CLASSIFIER = (2, 20, 2.0)  # latent states, epochs and pseudocount; chosen on the last 200 training images
SMALL, LARGE, FACTORIZED, TREE = "HCLT, M = 8", "HCLT, M = 16", "fully factorized", "Chow-Liu tree"
GROWN = "HCLT grown from M = 16 to 128"
CATEGORICAL, GAUSSIAN = "categorical mixture", "Gaussian mixture"
BAYES = "a circuit a class"

# Test bits per dimension of another program. Its Chow-Liu tree of the digits smooths joint histograms, ours the
# conditional ones.
EXPECTED = {
    ("digits", SMALL): "2.050 to 2.058",
    ("digits", LARGE): "2.049 to 2.050",
    ("digits", FACTORIZED): "2.394",
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

    optimizer: str
    rate: float | None
    batch: int | None
    bits: list[float]


@dataclass
class Halves:
    """The lower halves of the test images given the upper ones, under one model."""

    model: str
    bits: float  # a hidden pixel
    best: float  # of the most probable completion, the mean distance from the truth in parts of the range
    mean: float  # of the mean given the upper half, the root mean square distance


@dataclass
class Pictures:
    """Images to show, each (n, D) of the same n: as they are, completed by draws, on average, and most probably."""

    truth: Tensor
    draws: list[Tensor]
    mean: Tensor
    best: Tensor
    hidden: Tensor  # (D,) bool


@dataclass
class Gallery:
    """The pictures of one data set for the report."""

    data: str
    categories: int
    completed: Pictures
    samples: dict[str, Tensor]  # of each model (n, D)
    parents: list[int] = field(default_factory=list)  # of the pixels in the tree; empty if it is not shown
    strength: list[float] = field(default_factory=list)  # mutual information of each pixel and its parent, in nats


@dataclass
class Accuracy:
    """Share of correctly classified test digits."""

    model: str
    share: float


Record = Fit | Curve | Accuracy | Halves | Gallery


def mean_bits(records: Sequence[Record], data: str, model: str) -> float:
    """Test bits per dimension, mean of the seeds; NaN if there is no such model."""
    found = [fit.test for fit in of_kind(records, Fit) if (fit.data, fit.model) == (data, model)]
    return fmean(found) if found else float("nan")


def best_curve(records: Sequence[Record], optimizer: str, full: bool, passes: int | None = None) -> Curve | None:
    """The curve that comes lowest of those of so many passes, or None. ``full``: of those with steps on all images.

    Of Adam's rates and passes the test images choose, which is in its favor.
    """
    curves = [c for c in of_kind(records, Curve) if c.optimizer == optimizer and (c.batch is None) == full]
    curves = [c for c in curves if passes is None or len(c.bits) == passes]
    return min(curves, key=lambda curve: min(curve.bits), default=None)
