"""What the tests of neural processes share: small models in float64, and the linear-Gaussian task."""

from __future__ import annotations

import torch
from probkernels.amortized import ANP, BANP, BNP, CANP, CNP, MPANP, MPNP, NP, NeuralProcess
from torch import Tensor

ALL = (CNP, CANP, NP, ANP, BNP, BANP, MPNP, MPANP)
STOCHASTIC = ALL[2:]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(kind: type[NeuralProcess], **options: object) -> NeuralProcess:
    torch.manual_seed(0)
    given = {"width": 8, "heads": 2, **options}
    return kind(2, 1, **given).double()


def points(n: int, rows: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    return tuple(torch.randn(rows, n, size, generator=g, dtype=torch.float64) for size in (2, 1))


class DeFinetti:
    """theta ~ N(0, 1) and y = theta + 0.3 noise: x says nothing."""

    stddev = 0.3

    def sample(self, batch: int, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = 4 * torch.rand(batch, n, 1, generator=generator) - 2
        theta = torch.randn(batch, 1, generator=generator)
        return x, theta + self.stddev * torch.randn(batch, n, generator=generator)
