"""Closed-form test functions for optimization: Ehrlich functions of sequences, and two classics of real vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message


class Ehrlich:
    """An Ehrlich function: a score in [0, 1] of sequences, with infeasible sequences and interacting positions.

    The score is the product over motifs of the largest share of the motif's elements that occur at one place with the
    motif's gaps, rounded down to a multiple of 1 / ``quantization``. A sequence is infeasible if it contains a banned
    pair of neighbors. The maximum 1 is reached by :meth:`optimum`.

    Args:
        letters: number of letters, at least 2.
        length: length of the sequences, at least ``motifs`` * ``motif_length``.
        motifs: number of motifs.
        motif_length: elements of a motif.
        quantization: levels of a motif's share, a divisor of ``motif_length``; by default ``motif_length``.
        infeasible: score of infeasible sequences; 0, or ``-math.inf`` as in holo-bench.
        seed: seed of motifs, gaps and banned pairs.

    Attributes:
        allowed: (C, C) bool, allowed[a, b] says whether b may follow a. Every letter may follow itself.
        motifs: (K, Q) letters of the motifs.
        offsets: (K, Q) positions of a motif's elements, relative to the first one.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Reference:
        Stanton et al., Closed-Form Test Functions for Biophysical Sequence Design Benchmarking, 2024.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import Ehrlich
        >>> f = Ehrlich(letters=4, length=12, motifs=2, motif_length=3)
        >>> best = f.optimum()
        >>> f(best[None])
        tensor([1.])
        >>> x = f.random_designs(1000, torch.Generator().manual_seed(0))
        >>> bool(f.is_feasible(x).all()), bool(f(x).median() < 0.5)
        (True, True)
    """

    def __init__(
        self,
        letters: int,
        length: int,
        motifs: int = 2,
        motif_length: int = 4,
        *,
        quantization: int | None = None,
        infeasible: float = 0.0,
        seed: int = 0,
    ) -> None:
        op = "Ehrlich"
        checks.integer(op, "letters", letters, least=2)
        checks.integer(op, "motifs", motifs)
        checks.integer(op, "motif_length", motif_length)
        least = motifs * motif_length
        checks.integer(op, "length", length, least, wanted=f"at least motifs * motif_length = {least}")
        if quantization is not None:
            checks.integer(op, "quantization", quantization, 1, motif_length)
            if motif_length % quantization:
                expected = f"a divisor of motif_length ({motif_length})"
                raise ValueError(message(op, "quantization", expected, str(quantization)))
        generator = torch.Generator().manual_seed(checks.integer(op, "seed", seed, 0))
        self.letters, self.length, self.infeasible = letters, length, infeasible
        self.quantization = quantization or motif_length
        self.allowed = _allowed(letters, generator)
        self.motifs = _walk(self.allowed, 1, least, generator, repeats=False)[0].view(motifs, motif_length)
        self.offsets = _offsets(motifs, motif_length, length // motifs, generator)

    @classmethod
    def from_holo(cls, function: Any) -> Ehrlich:
        """The same function as a ``holo.test_functions.closed_form.Ehrlich`` without epistasis, noise and negation."""
        others = {"_epistasis_factor": 0.0, "noise_std": 0.0, "negate": False}
        for name, plain in others.items():
            if (getattr(function, name, plain) or plain) != plain:
                raise ValueError(message("from_holo", "function", f"{name} = {plain}", repr(getattr(function, name))))
        motifs = torch.stack(list(function.motifs)).long()
        count, size = motifs.shape
        found = cls(function.num_states, function.dim, count, size, quantization=function._quantization)
        found.allowed, found.motifs = function.transition_matrix > 0, motifs
        steps = torch.stack(list(function.spacings)).long()
        found.offsets = torch.cat([torch.zeros(count, 1, dtype=torch.long), steps.cumsum(1)], 1)
        found.infeasible = -math.inf
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (...) of sequences (..., L), integers 0 .. C - 1; float32."""
        return torch.where(self.is_feasible(x), self.shares(x).prod(-1), self.infeasible)

    def shares(self, x: Tensor) -> Tensor:
        """The share of each motif that sequences (..., L) contain, (..., K)."""
        self._check(x)
        found = []
        size = self.motifs.shape[1]
        for motif, offsets in zip(self.motifs.to(x.device), self.offsets.tolist(), strict=True):
            places = self.length - offsets[-1]
            hits = torch.stack([x[..., o : o + places] == m for o, m in zip(offsets, motif, strict=True)], -1)
            best = hits.sum(-1).amax(-1)
            found.append((best * self.quantization).div(size, rounding_mode="floor") / self.quantization)
        return torch.stack(found, -1)

    def is_feasible(self, x: Tensor) -> Tensor:
        """Whether sequences (..., L) have no banned pair of neighbors, (...)."""
        self._check(x)
        x = x.long()
        return self.allowed.to(x.device)[x[..., :-1], x[..., 1:]].all(-1)

    def optimum(self) -> Tensor:
        """A sequence (L,) of score 1: the motifs one after another, gaps filled by repeating the element before."""
        parts = []
        for motif, offsets in zip(self.motifs, self.offsets, strict=True):
            ends = torch.cat([offsets[1:], offsets[-1:] + 1])
            parts.append(motif.repeat_interleave(ends - offsets))
        found = torch.cat(parts)
        return torch.cat([found, found[-1:].expand(self.length - len(found))])

    def random_designs(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Feasible sequences (count, L): walks that choose each letter uniformly from those that may follow."""
        checks.integer("Ehrlich", "count", count, 0)
        return _walk(self.allowed, count, self.length, generator, repeats=True)

    def _check(self, x: Tensor) -> None:
        checks.integer_tensor("Ehrlich", "x", x)
        if x.ndim < 1 or x.shape[-1] != self.length:
            raise ValueError(message("Ehrlich", "x", f"shape (..., {self.length})", f"shape {tuple(x.shape)}"))
        wrong = (x < 0) | (x >= self.letters)
        if wrong.any():
            raise ValueError(message("Ehrlich", "x", f"letters 0 to {self.letters - 1}", checks.offender(x, wrong)))


def _allowed(letters: int, generator: torch.Generator) -> Tensor:
    """Which letter may follow which: some two fifths are banned, and a cycle through all letters stays allowed."""
    scores = torch.rand(letters, letters, generator=generator)
    order = torch.randperm(letters, generator=generator)
    scores[order, order.roll(-1)] = 2.0
    scores.fill_diagonal_(2.0)
    banned = min(int(0.4 * letters), letters - 2)
    if banned > 0:
        scores.scatter_(1, scores.topk(banned, 1, largest=False).indices, -1.0)
    return scores >= 0


def _walk(allowed: Tensor, count: int, steps: int, generator: torch.Generator | None, *, repeats: bool) -> Tensor:
    """Random sequences (count, steps) without banned pairs; without ``repeats`` neighbors differ."""
    chances = allowed.float() if repeats else allowed.float().fill_diagonal_(0.0)
    letter = torch.randint(len(allowed), (count,), generator=generator)
    found = [letter]
    for _ in range(steps - 1):
        letter = torch.multinomial(chances[letter], 1, generator=generator)[:, 0] if count else letter
        found.append(letter)
    return torch.stack(found, 1)


def _offsets(motifs: int, size: int, room: int, generator: torch.Generator) -> Tensor:
    """Positions (motifs, size) of the elements of motifs, from 0, increasing, below ``room``."""
    found = []
    for _ in range(motifs):
        rest = torch.randperm(room - 1, generator=generator)[: size - 1] + 1
        found.append(torch.cat([torch.zeros(1, dtype=torch.long), rest.sort().values]))
    return torch.stack(found)


def branin(x: Tensor) -> Tensor:
    """The negated Branin function of x (..., 2) in [-5, 10] x [0, 15]. Its maximum is -0.397887, at three points.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import branin
        >>> branin(torch.tensor([torch.pi, 2.275]))
        tensor(-0.3979)
    """
    _check_points("branin", x, 2)
    a, b = x.unbind(-1)
    curve = b - 5.1 / (4 * math.pi**2) * a.square() + 5 / math.pi * a - 6
    return -(curve.square() + 10 * (1 - 1 / (8 * math.pi)) * a.cos() + 10)


HARTMANN_A = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0), (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0), (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)  # fmt: skip
HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886), (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650), (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)  # fmt: skip


def hartmann6(x: Tensor) -> Tensor:
    """The negated Hartmann function of x (..., 6) in [0, 1]^6. Its maximum is 3.32237.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import hartmann6
        >>> hartmann6(torch.tensor([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]))
        tensor(3.3224)
    """
    _check_points("hartmann6", x, 6)
    a, p = (torch.tensor(t, dtype=x.dtype, device=x.device) for t in (HARTMANN_A, HARTMANN_P))
    weights = torch.tensor([1.0, 1.2, 3.0, 3.2], dtype=x.dtype, device=x.device)
    return (-(a * (x[..., None, :] - p).square()).sum(-1)).exp() @ weights


def _check_points(op: str, x: Tensor, size: int) -> None:
    checks.wide_float_tensor(op, "x", x)
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(message(op, "x", f"shape (..., {size})", f"shape {tuple(x.shape)}"))
