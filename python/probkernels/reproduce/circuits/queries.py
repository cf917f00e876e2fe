"""Measures queries of a fitted circuit: the hidden half of an image, and its class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...circuits import Circuit, hclt
from ..harness.datasets import Images
from ..harness.toy_models import Advance, full_batch_em, to_bits
from .records import Halves, Pictures

DRAWS = 3


@torch.no_grad()
def measure_halves(model: str, circuit: Circuit, images: Images) -> Halves:
    """Errors and bits of the hidden halves of all test images."""
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
    """Accuracy of Bayes' rule on test images, with a circuit per class and class frequencies from training."""
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
