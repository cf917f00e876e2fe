"""Couplings of groups of states whose mean-field equations have one solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._groups import Groups

Product = Callable[[Tensor], Tensor]


class Coupling(nn.Module):
    """What couplings have in common: a symmetric Phi (d, d) without blocks on its diagonal, with I - Phi >= m I.

    Example:
        >>> from probkernels.energy import Coupling, MonotoneCoupling
        >>> isinstance(MonotoneCoupling([3, 3, 2]), Coupling)
        True
    """

    def __init__(self, op: str, sizes: Sequence[int], m: float) -> None:
        super().__init__()
        self.groups, self.m = Groups(op, sizes), m
        checks.positive(op, "m", m)
        if m >= 1:
            raise ValueError(message(op, "m", "a number in (0, 1)", repr(m)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of states of each group."""
        return self.groups.sizes

    def exactly(self) -> torch.autocast:
        """A region without autocast, which would round products: certificates and fixed points need all digits."""
        return torch.autocast(next(self.parameters()).device.type, enabled=False)

    def product(self) -> Product:
        """The function q (B, d) -> Phi q, with the weights as they are now; differentiable."""
        raise NotImplementedError

    def forward(self, q: Tensor) -> Tensor:
        """q (B, d) -> Phi q."""
        return self.product()(q)

    def matrix(self) -> Tensor:
        """Phi, (d, d)."""
        weight = next(self.parameters())
        return self.product()(torch.eye(self.groups.states, dtype=weight.dtype, device=weight.device)).mT

    @torch.no_grad()
    def min_eig(self) -> float:
        """The smallest eigenvalue of I - Phi: the certificate that there is one fixed point. At least m."""
        with self.exactly():
            phi = self.matrix().double()
        return float(1 - torch.linalg.eigvalsh((phi + phi.mT) / 2)[-1])

    @torch.no_grad()
    def norm(self, rounds: int = 30) -> float:
        """The norm L of I - Phi by power iteration, from below; see :meth:`norm_bound`."""
        with self.exactly():
            weight, product = next(self.parameters()), self.product()
        x = torch.cos(torch.arange(1, self.groups.states + 1, dtype=weight.dtype, device=weight.device) ** 1.5)[None]
        size = x.norm()
        with self.exactly():
            for _ in range(rounds):
                x = x / size
                x = x - product(x)
                size = x.norm()
        return float(size)

    def norm_bound(self) -> float:
        """A bound of L from above: iterations converge for alpha < 2 / L.

        It is 1.3 times 60 rounds of power iteration. From a random start, that is too little with a probability of at
        most 0.824 sqrt(d) 1.3^-59.5, below 2e-5 for d = 10,000 (Kuczynski and Wozniakowski, 1992, theorem 4.1).
        """
        return 1.3 * self.norm(60)


def _shrink(squared: Tensor, m: float) -> Tensor:
    """The factor of A whose squared norm is ``squared``, so that it becomes at most 1 - m."""
    return ((1 - m) / squared.clamp(min=1 - m)).sqrt()


class MonotoneCoupling(Coupling):
    """A dense coupling ``Phi = blkdiag(A^T A) - A^T A``, where each group's columns of A have norm at most sqrt(1 - m).

    Args:
        sizes: number of states of each group; d in all.
        rank: rows of A. None: as many as states.
        m: in (0, 1), a lower bound of the eigenvalues of I - Phi.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Reference: Feng, Winston, Kolter, "Monotone deep Boltzmann machines", TMLR 2023.

    Example:
        >>> import torch
        >>> from probkernels.energy import MonotoneCoupling
        >>> coupling = MonotoneCoupling([3, 3, 2], rank=5)
        >>> coupling(torch.ones(1, 8)).shape, coupling.min_eig() >= 0.1
        (torch.Size([1, 8]), True)
    """

    others: Tensor

    def __init__(self, sizes: Sequence[int], rank: int | None = None, m: float = 0.1) -> None:
        super().__init__("MonotoneCoupling", sizes, m)
        d = self.groups.states
        rank = d if rank is None else checks.integer("MonotoneCoupling", "rank", rank)
        self.weight = nn.Parameter(torch.randn(rank, d) / rank**0.5)
        group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("others", group[:, None] != group, persistent=False)

    def block_norms(self) -> Tensor:
        """The spectral norm of each group's columns of A, (groups)."""
        return self._squared_norms().sqrt()

    def _squared_norms(self) -> Tensor:
        found = []
        for run in self.groups.runs:
            columns = self.weight[:, run.places].unflatten(1, (run.many, run.size)).transpose(0, 1)
            found.append(torch.linalg.eigvalsh(columns.mT @ columns)[:, -1])
        return torch.cat(found)

    def matrix(self) -> Tensor:
        """Phi, (d, d)."""
        scaled = self.weight * self.groups.repeat(_shrink(self._squared_norms(), self.m))
        return -(scaled.mT @ scaled) * self.others

    @torch.no_grad()
    def norm_bound(self) -> float:
        """L itself, from all eigenvalues, plus a margin for rounding."""
        with self.exactly():
            phi = self.matrix().double()
        return 1e-6 + float((1 - torch.linalg.eigvalsh(phi)).abs().max())

    def product(self) -> Product:
        """The function q (B, d) -> Phi q, with the weights as they are now; differentiable."""
        phi = self.matrix()
        return lambda q: q @ phi
