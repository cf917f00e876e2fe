"""Circuits of digits and MNIST that several experiments train, and their bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...circuits import EM, Circuit, PiecewiseLinear, grow, hclt, tree_parents
from ...circuits.schedule import Schedule
from .datasets import Images

Advance = Callable[[float], None]
EPOCHS = 60
ANNEALED = PiecewiseLinear(((0.0, 0.8), (0.5, 0.1), (1.0, 0.01)))  # steps of mini-batches; inertia is one minus it
AFTER_GROWTH = PiecewiseLinear(((0.0, 0.3), (1.0, 0.01)))
DOUBLINGS, HELD_OUT = 3, 0.05  # from M = 16 to 128; the share of training images that chooses each one's best epoch


def to_bits(log_prob: float, pixels: int) -> float:
    """Nats an image as bits a pixel, sign turned."""
    return -log_prob / (pixels * math.log(2))


@torch.no_grad()
def bits(circuit: Circuit, x: Tensor) -> float:
    """Mean of -log2 p(x) over the images and their pixels: bits per dimension."""
    total = sum(float(circuit.log_prob(part).double().sum()) for part in x.split(1000))
    return to_bits(total / len(x), x.shape[1])


def chow_liu_bits(train: Tensor, test: Tensor, categories: int, pseudocount: float) -> float:
    """Bits per dimension of ``chow_liu(train, ...)`` without its circuit, which has categories**2 edges a pixel: too
    many to go through for every image where a count does.
    """
    parents = tree_parents(train, categories, pseudocount)
    per_image = torch.zeros(len(test), dtype=torch.float64)
    for child, parent in enumerate(parents):
        before = train.new_zeros(len(train)) if parent < 0 else train[:, parent]
        at = test.new_zeros(len(test)) if parent < 0 else test[:, parent]
        cells = before.long() * categories + train[:, child]
        counts = torch.bincount(cells, minlength=categories**2).view(categories, categories).double()
        p = (counts + pseudocount / categories) / (counts.sum(1, keepdim=True) + pseudocount)
        per_image += p[at.long(), test[:, child].long()].log()
    return to_bits(per_image.mean().item(), test.shape[1])


def ticking(step: Callable[[float], float], advance: Advance) -> Callable[[float], float]:
    """Wraps a schedule of EM so that each step advances a progress bar by one."""

    def asked(done: float) -> float:
        advance(1)
        return step(done)

    return asked


def full_batch_em(circuit: Circuit, x: Tensor, epochs: int, pseudocount: float, advance: Advance) -> Circuit:
    """Fits a circuit with steps on all observations."""
    step = ticking(lambda done: 1.0, advance)
    EM(circuit, step=step, pseudocount=pseudocount, batch_size=None).fit(x, epochs=epochs, progress=False)
    return circuit


def mnist_hclt(images: Images, epochs: int, latents: int, size: int, advance: Advance) -> Circuit:
    """An HCLT of batches of ``size``; ``advance`` moves on by 1 an epoch."""
    batches = max(len(images.train) // size, 1)
    circuit = hclt(images.train, latents, categories=images.categories)
    step = ticking(ANNEALED, lambda amount: advance(amount / batches))
    EM(circuit, step=step, pseudocount=0.1, batch_size=size).fit(images.train, epochs=epochs, progress=False)
    return circuit


def mnist_grown(images: Images, epochs: int, size: int, advance: Advance) -> tuple[Circuit, Tensor]:
    """An HCLT whose latents double their states again and again, each time trained until held-out images get worse;
    and the images that it has seen.
    """
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
    held_out, seen = (images.train[part] for part in order.tensor_split([int(HELD_OUT * len(order))]))
    batches = max(len(seen) // size, 1)

    def train(circuit: Circuit, schedule: Schedule) -> None:
        step = ticking(schedule, lambda amount: advance(amount / batches))
        em = EM(circuit, step=step, pseudocount=0.1, batch_size=size)
        em.fit(seen, validation=held_out, epochs=epochs, progress=False)

    circuit = hclt(seen, 16, categories=images.categories)
    train(circuit, ANNEALED)
    for seed in range(DOUBLINGS):
        circuit = grow(circuit, seed=seed)
        train(circuit, AFTER_GROWTH)
    return circuit, seen
