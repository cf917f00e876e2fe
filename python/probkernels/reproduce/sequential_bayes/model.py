"""The stream of blobs, the Bayesian network, and its sampling by HMC."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import bnn

HIDDEN, PARAMETERS = 10, 52  # of a network 2-10-2
CHAINS, LEAPFROG, ITERATIONS = 8, 20, 500
WARMUP, KEPT = 0.4, 0.12  # shares of the iterations: before the first sample, and that are kept
TARGET, FIRST_STEP = 0.8, 0.05  # rate of acceptance, size of a step before adaptation
POINTS = 80  # of a blob
CENTERS = (
    (0, 0.2), (0.6, 0.9), (1.3, 0.4), (1.6, -0.1), (2, 0.3), (0.45, 0), (0.7, 0.45), (1, 0.1), (1.7, -0.4), (2.3, 0.1),
)  # fmt: skip
STDS = (
    (0.08, 0.22), (0.24, 0.08), (0.04, 0.2), (0.16, 0.05), (0.05, 0.16),
    (0.08, 0.16), (0.16, 0.08), (0.06, 0.16), (0.24, 0.05), (0.05, 0.22),
)  # fmt: skip
TASKS = len(CENTERS) // 2
LogDensity = Callable[[Tensor], Tensor]
Advance = Callable[[float], None]
Points = tuple[Tensor, Tensor]


def blobs(generator: torch.Generator) -> list[Points]:
    """Points and classes of each task: class 0 is blob t, class 1 is blob t + 5."""
    noise = torch.randn(TASKS, 2, POINTS, 2, generator=generator)
    centers, stds = (torch.tensor(v).view(2, TASKS, 1, 2).transpose(0, 1) for v in (CENTERS, STDS))
    y = torch.arange(2).repeat_interleave(POINTS)
    return [(x.flatten(0, 1), y) for x in centers + stds * noise]


def logits(w: Tensor, x: Tensor) -> Tensor:
    """(n, N, 2) outputs of networks with the parameters w (n, 52)."""
    first, bias, second, last = w.split([2 * HIDDEN, HIDDEN, 2 * HIDDEN, 2], 1)
    hidden = torch.relu(x @ first.view(-1, 2, HIDDEN) + bias[:, None])
    return hidden @ second.view(-1, HIDDEN, 2) + last[:, None]


def log_likelihood(x: Tensor, y: Tensor) -> LogDensity:
    """Of parameters (n, 52), given points and classes."""
    sign = 1.0 - 2 * y

    def function(w: Tensor) -> Tensor:
        out = logits(w, x)
        return -F.softplus(sign * (out[..., 1] - out[..., 0])).sum(1)

    return function


@torch.no_grad()
def accuracy(w: Tensor, data: Points) -> float:
    """Of the mean prediction of all samples."""
    return float((logits(w, data[0]).softmax(2).mean(0).argmax(1) == data[1]).float().mean())


def hmc(
    log_density: LogDensity, start: Tensor, iterations: int, generator: torch.Generator, advance: Advance
) -> Tensor:  # fmt: skip
    """Samples (chains, kept, P) of all chains at once. The size of the step adapts in the warm-up."""
    warmup, every = round(WARMUP * iterations), round((1 - WARMUP) / KEPT)
    samples = (iterations - warmup) // every
    sampler = bnn.HMC(FIRST_STEP, LEAPFROG, target_acceptance=TARGET)
    found = sampler.sample_density(
        log_density, start, samples=samples, warmup=warmup, keep_every=every, generator=generator
    )
    advance(iterations)
    return found


def filtered(tasks: list[Points], iterations: int, seed: int, advance: Advance) -> list[bnn.Filtered]:
    """The posterior after each task, carried by a Gaussian mixture."""
    generator = torch.Generator().manual_seed(seed)
    return bnn.filter_posterior(
        [log_likelihood(*task) for task in tasks],
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(PARAMETERS), 1.0), 1),
        lambda log_density, start: hmc(log_density, start, iterations, generator, advance),
        lambda samples: bnn.fit_gaussian_mixture(samples, (1, 4, 8), generator=generator),
        start=torch.randn(CHAINS, PARAMETERS, generator=generator),
        generator=generator,
    )
