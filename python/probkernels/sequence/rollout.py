"""Sampling from a random-access predictor, value by value in any order, or many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .pointers import Known, PointerVocab, Query, repeated, with_pairs

ORDERS = ("random", "given")


class Psi(Protocol):
    """A predictor of any value given any others: a vocabulary, and logits (B, q, V) of the values asked."""

    vocab: PointerVocab

    def logits(self, known: Known, query: Query) -> Tensor:
        """Logits of the values of the query's modality at its pointers."""


class CallablePsi:
    """A predictor from a function: what the functions of this room take as ``psi``.

    Args:
        function: gives logits (B, q, V) from known pairs and a query, see :class:`PointerVocab`.
        vocab: the modalities.

    Raises:
        TypeError: an argument of another type.

    Example:
        >>> import torch
        >>> from probkernels.sequence import CallablePsi, PointerVocab, rollout
        >>> vocab = PointerVocab({"rgb": (3, (2, 2))})
        >>> certain = torch.tensor([0.0, 0.0, 99.0])  # of the last value, whatever is known
        >>> psi = CallablePsi(lambda known, query: certain.expand(*query[1].shape, 3), vocab)
        >>> rollout(psi, {}, ("rgb", torch.arange(4)))
        tensor([[2, 2, 2, 2]])
    """

    def __init__(self, function: Callable[[Known, Query], Tensor], vocab: PointerVocab) -> None:
        if not callable(function):
            raise TypeError(message("CallablePsi", "function", "a function", checks.describe(function)))
        if not isinstance(vocab, PointerVocab):
            raise TypeError(message("CallablePsi", "vocab", "a PointerVocab", checks.describe(vocab)))
        self.logits, self.vocab = function, vocab


def check_psi(op: str, psi: Any) -> Psi:
    """Checks that ``psi`` has logits and a vocabulary."""
    if not callable(getattr(psi, "logits", None)) or not isinstance(getattr(psi, "vocab", None), PointerVocab):
        hint = "CallablePsi(function, vocab) makes one of a function"
        expected = "an object with logits(known, query) and vocab"
        raise TypeError(message(op, "psi", expected, checks.describe(psi), hint))
    return psi


class _Asked:
    """The state of a rollout with any predictor: asks it anew at each step."""

    def __init__(self, psi: Psi, known: Known, rows: int) -> None:
        self.psi, self.known = psi, {n: (p.expand(rows, -1), v.expand(rows, -1)) for n, (p, v) in known.items()}

    def logits(self, name: str, pointers: Tensor) -> Tensor:
        return self.psi.logits(self.known, (name, pointers))

    def append(self, name: str, pointers: Tensor, values: Tensor) -> None:
        self.known = with_pairs(self.known, name, pointers, values)


def _ordered(order: str | Tensor, at: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, q) the columns of ``at`` in the order in which they are drawn."""
    if isinstance(order, Tensor):
        checks.integer_tensor("rollout", "order", order)
        if order.shape[-1:] != at.shape[-1:] or order.ndim > 2 or (order.ndim == 2 and len(order) not in (1, len(at))):
            expected = f"shape {tuple(at.shape[-1:])} or {tuple(at.shape)}"
            raise ValueError(message("rollout", "order", expected, f"shape {tuple(order.shape)}"))
        found = order.long().expand_as(at)
        wrong = found.sort(1).values != torch.arange(at.shape[1], device=at.device)
        if bool(wrong.any()):
            expected = f"a permutation of 0 to {at.shape[1] - 1}"
            raise ValueError(message("rollout", "order", expected, checks.describe(order.tolist())))
        return found
    checks.one_of("rollout", "order", order, ORDERS)
    if order == "given":
        return torch.arange(at.shape[1], device=at.device).expand_as(at)
    device = at.device if generator is None else generator.device
    return torch.rand(at.shape, generator=generator, device=device).argsort(1).to(at.device)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    p = (logits.double() / temperature).softmax(-1)
    device = p.device if generator is None else generator.device
    return torch.multinomial(p.flatten(0, 1).to(device), 1, generator=generator).view(p.shape[:2]).to(p.device)


@torch.no_grad()
def rollout(
    psi: Psi,
    known: Known,
    query: Query,
    *,
    order: str | Tensor = "random",
    parallel_after: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws the values that are asked, one after the other: each knows those drawn before. Then the rest at once.

    Values drawn at once are independent given what is known: samples of marginals, not of their joint distribution.
    A predictor with a method ``begin(known, rows)``, such as :class:`LRAS`, keeps keys and values of what it has read.

    Args:
        psi: predictor with ``logits`` and ``vocab``.
        known: known pairs, see :class:`PointerVocab`; may be empty.
        query: a modality and the pointers asked (q,) or (B, q). Draws of one scene need B rows of them.
        order: "random" for another order in each row, "given" for that of the pointers, or a permutation of 0 to
            q - 1, (q,) or (B, q).
        parallel_after: number of values drawn one by one before the rest is drawn at once; None for all, 0 for none.
        temperature: logits are divided by it.
        generator: of all draws; None for torch's default generator.

    Returns:
        Values (B, q), in the order of the query's pointers.

    Raises:
        TypeError, ValueError: an unknown modality, a pointer out of range, asked twice or known, no pointers, or an
            option is out of range.

    Example:
        >>> import torch
        >>> from probkernels.sequence import ExactPsi, PatchWorld, rollout
        >>> world = PatchWorld(6)
        >>> scene = world.sample(1, torch.Generator().manual_seed(0))
        >>> generator = torch.Generator().manual_seed(0)
        >>> frame = rollout(ExactPsi(world), scene.known("rgb0"), ("rgb1", torch.arange(36)), generator=generator)
        >>> frame.view(6, 6).sum()  # a whole object
        tensor(10)
    """
    vocab = check_psi("rollout", psi).vocab
    checks.positive("rollout", "temperature", temperature)
    blocks = vocab.blocks("rollout", known)
    name, at = vocab.asked("rollout", query, blocks)
    one_by_one = at.shape[1] if parallel_after is None else parallel_after
    one_by_one = min(checks.integer("rollout", "parallel_after", one_by_one, least=0), at.shape[1])
    column = _ordered(order, at, generator)
    at = at.gather(1, column)
    begin = getattr(psi, "begin", None)
    state = _Asked(psi, repeated(blocks), len(at)) if begin is None else begin(repeated(blocks), len(at))
    drawn = []
    for step in range(one_by_one):
        pointer = at[:, step : step + 1]
        drawn.append(_draw(state.logits(name, pointer), temperature, generator))
        state.append(name, pointer, drawn[-1])
    if one_by_one < at.shape[1]:
        drawn.append(_draw(state.logits(name, at[:, one_by_one:]), temperature, generator))
    values = torch.cat(drawn, 1)
    return torch.empty_like(values).scatter_(1, column, values)
