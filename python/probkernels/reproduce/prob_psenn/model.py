"""The data, the autoencoder and the training of both networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import uncertainty as un
from ...training import minimize
from ..harness import datasets

KNOWN, CODE, BATCH, DRAWS, TRAIN = 8, 10, 128, 10, 1000
Advance = Callable[[float], None]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Pixels in [-1, 1] and labels: of known classes to train on and to judge by, and of unknown classes."""

    train: Batch
    test: Batch
    unknown: Tensor


def draw(seed: int) -> Data:
    """Splits the digits."""
    images = datasets.digits()
    assert images.test_labels is not None
    x = torch.cat([images.train, images.test]).float() / 8 - 1
    digit = torch.cat([images.labels, images.test_labels])
    known = (digit < KNOWN).nonzero()[:, 0]
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    train, test = ((x[rows], digit[rows]) for rows in order.tensor_split([TRAIN]))
    return Data(train, test, x[digit >= KNOWN])


def autoencoder(pixels: int) -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder."""
    encoder = nn.Sequential(nn.Linear(pixels, 128), nn.LeakyReLU(0.2), nn.Linear(128, CODE))
    decoder = nn.Sequential(nn.Linear(CODE, 128), nn.LeakyReLU(0.2), nn.Linear(128, pixels), nn.Tanh())
    return encoder, decoder


def train(
    module: nn.Module, data: Batch, epochs: int, generator: torch.Generator, loss: Callable[[Tensor, Tensor], Tensor],
    advance: Advance,
) -> None:  # fmt: skip
    """Minimizes the loss of (pixels, labels) with Adam."""
    x, labels = data
    batches = math.ceil(len(x) / BATCH)
    rows: list[Tensor] = []

    def step(n: int) -> Tensor:
        if n % batches == 0:
            rows[:] = torch.randperm(len(x), generator=generator).split(BATCH)
            advance(1)
        chosen = rows[n % batches]
        return loss(x[chosen], labels[chosen])

    minimize(step, torch.optim.Adam(module.parameters(), lr=1e-3), epochs * batches)


def pretrained(data: Batch, epochs: int, generator: torch.Generator, advance: Advance) -> un.ProbPSENN:
    """Trains the autoencoder on reconstruction, and fits the prototypes to its codes."""
    encoder, decoder = autoencoder(data[0].shape[1])
    both = nn.Sequential(encoder, decoder)
    train(both, data, epochs, generator, lambda x, _: F.mse_loss(both(x), x), advance)
    with torch.no_grad():
        prototypes = un.GaussianPrototypes(KNOWN, CODE).fit_(encoder(data[0]), data[1], jitter=1e-4)
    return un.ProbPSENN(encoder, prototypes, decoder)


def gaussians(
    start: un.ProbPSENN, data: Batch, epochs: int, generator: torch.Generator, advance: Advance
) -> un.ProbPSENN:
    """Prob-PSENN: trains all parts of a copy."""
    model = copy.deepcopy(start)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return model.loss(model(x, DRAWS, generator=generator), x, labels)

    train(model, data, epochs, generator, loss, advance)
    return model


def points(start: un.ProbPSENN, data: Batch, epochs: int, generator: torch.Generator, advance: Advance) -> un.ProbPSENN:
    """PSENN: the same with the centers alone. Squared distances take the place of densities."""
    model = copy.deepcopy(start)
    model.prototypes.raw_scale.requires_grad_(False)
    model.prototypes.raw_scale.copy_(torch.diag_embed(torch.full((CODE,), -50.0)).expand(KNOWN, -1, -1))

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        out = model(x, None)
        near = out.distances[:, 0].gather(1, labels[:, None]).mean()
        return model.loss(out, x, labels, density=0.0) + 0.05 * near

    train(model, data, epochs, generator, loss, advance)
    return model
