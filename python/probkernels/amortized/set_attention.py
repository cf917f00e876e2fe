"""Attention over a set: contexts see each other, every query sees the contexts and itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .._core import checks
from .._core.attention import MASKED, attend
from .._core.errors import message
from .._core.registry import numbers_known

CONTEXTS = ("full", "causal")


def set_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    n_context: int,
    *,
    context: str = "full",
    counts: Tensor | None = None,
    positions: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention over N contexts and m queries: contexts see contexts, each query sees the contexts and itself.

    The result equals ``scaled_dot_product_attention`` with the mask of shape (N + m, N + m) that says so, and so do
    its gradients, but that mask is never made. Time is O(N^2 + m N), where the dense mask takes O((N + m)^2). On a
    CPU no score is stored; elsewhere, for second derivatives and in ``torch.func`` transforms, plain torch stores
    N^2 + m N scores.

    Args:
        query: (B, H, N + m, d), float32, float64, float16 or bfloat16: the contexts first, then the queries.
        key: of the same shape and dtype.
        value: of the same shape and dtype.
        n_context: N, the number of context slots, >= 0.
        context: "full": a context sees all contexts. "causal": it sees itself and the contexts before it.
        counts: (B,) integers from 0 to N: row b has only the first ``counts[b]`` contexts; the others are padding.
            Nothing sees padding, whatever it holds, and its outputs are 0. None for N in every row.
        positions: (m,) or (B, m) integers from 0 to N, with "causal" only: query j sees the contexts before
            ``positions[j]``, and itself. None for all contexts of its row.
        scale: factor on the scores; None for 1 / sqrt(d).

    Returns:
        (B, H, N + m, d). A query without contexts gets its own value.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: a shape, ``n_context``, ``counts`` or ``positions`` is out of range.

    Example:
        >>> import torch
        >>> from probkernels.amortized import set_attention
        >>> q, k, v = torch.randn(3, 2, 4, 7, 8).unbind(0)
        >>> out = set_attention(q, k, v, 5, counts=torch.tensor([5, 0]))
        >>> out.shape, torch.equal(out[1, :, 5:], v[1, :, 5:])
        (torch.Size([2, 4, 7, 8]), True)
    """
    op = "set_attention"
    _check_tensors(op, query, key, value)
    n = checks.integer(op, "n_context", n_context, 0, query.shape[2], f"0 to {query.shape[2]}, the number of tokens")
    checks.one_of(op, "context", context, CONTEXTS)
    if positions is not None and context == "full":
        hint = "context='causal'"
        raise ValueError(message(op, "positions", "None with context='full'", checks.describe(positions), hint))
    parts = [x.split([n, x.shape[2] - n], dim=2) for x in (query, key, value)]
    seen = Visible.check(op, counts, positions, query, n, query.shape[2] - n)
    return _both(parts, context == "causal", seen, _scale(op, scale, query))


def _both(parts: list[tuple[Tensor, ...]], causal: bool, seen: Visible, scale: float) -> Tensor:
    """Outputs of contexts and queries, in this order."""
    query, key, value = parts
    q, k, v = (seen.without_padding(x[0]) for x in (query, key, value))
    of_contexts = attend(q, k, v, None, None if causal else seen.of_contexts(), causal, scale)
    of_queries = attend(query[1], k, v, (key[1], value[1]), seen.of_queries(), False, scale)
    return torch.cat([seen.without_padding(of_contexts), of_queries], 2)


@dataclass(frozen=True)
class Visible:
    """Which of the contexts are there, and which of them each query sees."""

    slots: int
    counts: Tensor | None = None  # (B,)
    positions: Tensor | None = None  # (1 or B, m)

    @classmethod
    def check(
        cls, op: str, counts: Tensor | None, positions: Tensor | None, like: Tensor, slots: int, queries: int
    ) -> Visible:
        """Checks ``counts`` and ``positions`` for B rows on the device of ``like`` (B, ...)."""
        if counts is not None:
            check_counts(op, "counts", counts, like, slots)
        if positions is not None:
            checks.integer_tensor(op, "positions", positions)
            if positions.shape not in ((queries,), (len(like), queries)):
                wanted = f"shape ({queries},) or ({len(like)}, {queries})"
                raise ValueError(message(op, "positions", wanted, f"shape {tuple(positions.shape)}"))
            checks.same_device(op, "positions", positions, like, "query")
            positions = positions.long() if positions.ndim == 2 else positions.long()[None]
            most = torch.as_tensor(slots) if counts is None else counts[:, None]
            if numbers_known(positions, like):
                wrong = (positions < 0) | (positions > most)
                if wrong.any():
                    got = checks.offender(positions.expand_as(wrong), wrong)
                    raise ValueError(message(op, "positions", "0 to the number of contexts of the row", got))
        return cls(slots, counts, positions)

    def without_padding(self, x: Tensor) -> Tensor:
        """(B, H, N, d) with zeros instead of padding."""
        if self.counts is None:
            return x
        there = torch.arange(self.slots, device=x.device) < self.counts[:, None]
        return torch.where(there[:, None, :, None], x, 0)

    def of_contexts(self) -> Tensor | None:
        """What is added to the scores of contexts; it broadcasts to (B, H, N, N)."""
        return None if self.counts is None else self._bias(self.counts[:, None])

    def of_queries(self) -> Tensor | None:
        """What is added to the scores of queries; it broadcasts to (B, H, m, N)."""
        return self.of_contexts() if self.positions is None else self._bias(self.positions)

    def _bias(self, limit: Tensor) -> Tensor:
        hidden = torch.arange(self.slots, device=limit.device) >= limit[:, None, :, None]
        return torch.where(hidden, MASKED, 0.0).to(torch.float32)


@dataclass(frozen=True)
class ContextCache:
    """Keys and values of the contexts in every layer of a network, for queries that come later.

    Args:
        keys: one (B, H, N, d) tensor for every layer.
        values: likewise.
        counts: (B,) numbers of contexts as in :func:`set_attention`; None for N in every row.
        facts: what else the network keeps of its contexts, such as means and standard deviations.

    Example:
        >>> import torch
        >>> from probkernels.amortized import ContextCache, set_attention
        >>> q, k, v = torch.randn(3, 2, 4, 7, 8).unbind(0)
        >>> cache = ContextCache((k[:, :, :5],), (v[:, :, :5],))
        >>> found = cache.attend(0, q[:, :, 5:], k[:, :, 5:], v[:, :, 5:])
        >>> torch.allclose(found, set_attention(q, k, v, 5)[:, :, 5:], atol=1e-6)
        True
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    counts: Tensor | None = None
    facts: dict[str, Tensor] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        positions: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Outputs (B, H, m, d) of m queries that see the contexts of a layer, and each itself; arguments as in
        :func:`set_attention`."""
        op = "ContextCache.attend"
        _check_tensors(op, query, key, value)
        kept = self.keys[checks.integer(op, "layer", layer, 0, len(self.keys) - 1)]
        expected = (*kept.shape[:2], query.shape[2], kept.shape[3])
        checks.shape(op, "query", query, expected, "like the cache's (B, H, N, d)")
        seen = Visible.check(op, self.counts, positions, query, kept.shape[2], query.shape[2])
        k, v = seen.without_padding(kept), seen.without_padding(self.values[layer])
        return attend(query, k, v, (key, value), seen.of_queries(), False, _scale(op, scale, query))

    def detach(self) -> ContextCache:
        """The same without the graph of gradients."""
        return self._each(lambda x: x.detach())

    def to(self, device: torch.device | str) -> ContextCache:
        """The same on another device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> ContextCache:
        counts = None if self.counts is None else change(self.counts)
        facts = {name: change(x) for name, x in self.facts.items()}
        return replace(
            self, keys=tuple(map(change, self.keys)), values=tuple(map(change, self.values)), counts=counts, facts=facts
        )


def check_counts(op: str, name: str, counts: Tensor, like: Tensor, slots: int) -> None:
    """Checks numbers of contexts: (B,) integers from 0 to ``slots`` on the device of ``like`` (B, ...)."""
    checks.integer_tensor(op, name, counts)
    checks.shape(op, name, counts, like.shape[:1], "for B rows")
    checks.same_device(op, name, counts, like, "query")
    if numbers_known(counts, like):
        wrong = (counts < 0) | (counts.long() > slots)
        if wrong.any():
            raise ValueError(message(op, name, f"0 to {slots}", checks.offender(counts, wrong)))


def _check_tensors(op: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        checks.float_tensor(op, name, x)
        if x.ndim != 4 or not x.shape[-1]:
            raise ValueError(message(op, name, "shape (B, H, T, d), d >= 1", f"shape {tuple(x.shape)}"))
        checks.shape(op, name, x, query.shape, "of 'query'")
        if x.dtype != query.dtype:
            raise TypeError(message(op, name, f"dtype {query.dtype} of 'query'", str(x.dtype)))
        checks.same_device(op, name, x, query, "query")


def _scale(op: str, scale: float | None, query: Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else checks.number(op, "scale", scale)
