"""What a fitted circuit can be asked, measured: the hidden half of an image, and the class of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..circuits import Circuit, hclt
from ._circuits_data import Images, to_bits
from ._circuits_peers import Advance, full_batch_em

DRAWS = 3


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
    """What the report shows of one data set."""

    data: str
    categories: int
    completed: Pictures
    samples: dict[str, Tensor]  # of each model (n, D)
    parents: list[int] = field(default_factory=list)  # of the pixels in the tree; empty if it is not shown
    strength: list[float] = field(default_factory=list)  # mutual information of each pixel and its parent, in nats


@torch.no_grad()
def measure_halves(model: str, circuit: Circuit, images: Images) -> Halves:
    """Over all test images."""
    hidden = images.lower_half
    log_p = torch.cat([circuit.conditional(x, targets=hidden) for x in images.test.split(500)])
    off_best, off_mean = (
        (guess - images.test).double()[:, hidden] / (images.categories - 1)
        for guess in (circuit.mpe(images.test, hidden)[0], circuit.moments(images.test, hidden).mean)
    )
    found = to_bits(log_p.double().mean().item(), int(hidden.sum()))
    return Halves(model, found, off_best.abs().mean().item(), off_mean.square().mean().sqrt().item())


def complete(circuit: Circuit, images: Images, rows: Sequence[int], seed: int = 0) -> Pictures:
    """Draws and the most probable completion of some test images."""
    x, hidden = images.test[list(rows)], images.lower_half
    draws = circuit.sample(DRAWS, given=x, missing=hidden, seed=seed)
    mean = torch.where(hidden, circuit.moments(x, hidden).mean, x.float())
    return Pictures(x, list(draws), mean, circuit.mpe(x, hidden)[0], hidden)


def accuracy(images: Images, latents: int, epochs: int, pseudocount: float, advance: Advance) -> float:
    """Share of test images that Bayes' rule puts in their class: a circuit a class, classes weighted as in training."""
    scores = []
    for label in range(int(images.labels.max()) + 1):
        own = images.train[images.labels == label]
        circuit = hclt(own, latents, categories=images.categories, seed=label)
        full_batch_em(circuit, own, epochs, pseudocount, lambda amount: None)
        with torch.no_grad():
            scores.append(circuit.log_prob(images.test) + math.log(len(own) / len(images.train)))
        advance(1)
    assert images.test_labels is not None
    return (torch.stack(scores).argmax(0) == images.test_labels).double().mean().item()
