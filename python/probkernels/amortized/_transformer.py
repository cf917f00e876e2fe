"""The body of a prior-fitted network: post-norm layers around attention over a set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .set_attention import ContextCache, set_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class SetLayer(nn.Module):
    """Attention and a feed-forward network, each with a residual and a norm after it.

    The last linear maps of both start at zero, so that a new layer only normalizes.
    """

    def __init__(self, d: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ff1, self.ff2 = nn.Linear(d, d_ff), nn.Linear(d_ff, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        for zero in (self.qkv.bias, *self.out.parameters(), *self.ff2.parameters()):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor, attend: Attention) -> Tensor:
        """New tokens (B, T, d); ``attend`` maps queries, keys and values (B, H, T, d / H) to outputs."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = attend(q, k, v).transpose(1, 2).flatten(2)
        h = self.norm1(h + self.dropout(self.out(found)))
        inner = self.dropout(nn.functional.gelu(self.ff1(h)))
        return self.norm2(h + self.dropout(self.ff2(inner)))


class SetTransformer(nn.Module):
    """Layers that contexts and queries pass together, or one after the other with a cache between."""

    def __init__(self, d: int, layers: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SetLayer(d, heads, d_ff, dropout) for _ in range(layers))

    def forward(self, contexts: Tensor, queries: Tensor, counts: Tensor | None) -> Tensor:
        """Outputs (B, m, d) of the queries (B, m, d), which see the contexts (B, n, d)."""
        n = contexts.shape[1]
        h = torch.cat([contexts, queries], 1)
        for layer in self.layers:
            h = layer(h, lambda q, k, v: set_attention(q, k, v, n, counts=counts))
        return h[:, n:]

    def condition(self, h: Tensor, counts: Tensor | None) -> ContextCache:
        """Keys and values of contexts (B, n, d) in every layer."""
        kept: list[tuple[Tensor, Tensor]] = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept.append((k, v))
            return set_attention(q, k, v, h.shape[1], counts=counts)

        for layer in self.layers:
            h = layer(h, attend)
        own = None if counts is None else counts.clone()  # the caller may fill a buffer of counts again
        return ContextCache(tuple(k for k, _ in kept), tuple(v for _, v in kept), own)

    def query(self, h: Tensor, cache: ContextCache) -> Tensor:
        """Outputs (B, m, d) of queries (B, m, d), which see the contexts of the cache."""
        for number, layer in enumerate(self.layers):
            h = layer(h, lambda q, k, v, at=number: cache.attend(at, q, k, v))
        return h
