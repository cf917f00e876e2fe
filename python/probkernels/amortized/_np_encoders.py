"""The networks that all neural processes share: attention blocks, the encoder of contexts, the decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._core import checks
from .._core.errors import message


def mlp(inputs: int, width: int, outputs: int, depth: int) -> nn.Sequential:
    """``depth`` linear layers with ReLUs between them."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Linear(sizes[k], sizes[k + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the points that ``mask`` marks: (..., n, D) and (..., n) give (..., D)."""
    if mask is None:
        return values.mean(-2)
    mask = mask[..., None]
    return values.masked_fill(~mask, 0).sum(-2) / mask.sum(-2)


class AttentionBlock(nn.Module):
    """Multi-head attention with a residual of the queries and a small network: MAB(Q, K) of the set transformer.

    O = LN(Q W_q + attention), then LN(O + ReLU(O W_o)).

    Args:
        width: size of inputs and outputs.
        heads: number of heads, which divides the width.
        scale: what the scores are divided by the square root of: the "model"'s width, or that of a "head".
    """

    def __init__(self, width: int, heads: int = 8, scale: str = "model") -> None:
        super().__init__()
        checks.integer("AttentionBlock", "width", width)
        checks.integer("AttentionBlock", "heads", heads)
        checks.one_of("AttentionBlock", "scale", scale, ("model", "head"))
        if width % heads:
            raise ValueError(message("AttentionBlock", "heads", f"a divisor of the width {width}", str(heads)))
        self.heads = heads
        self.scale = 1 / math.sqrt(width if scale == "model" else width // heads)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attends from q (..., m, D) to k and v (..., n, D); leading dimensions broadcast.

        Args:
            q: queries.
            k: keys.
            v: values; None for the keys.
            mask: (..., n) bool, True for keys that exist; None if all do. A row without any is not allowed.
        """
        query, key, value = self.query(q), self.key(k), self.value(k if v is None else v)
        lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        heads = [self._split(part, lead) for part in (query, key, value)]
        if mask is not None:
            mask = mask[..., None, None, :].expand(*lead, 1, 1, mask.shape[-1]).flatten(0, len(lead) - 1)
        found = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask, scale=self.scale)
        found = found.transpose(1, 2).flatten(2).view(*lead, *query.shape[-2:])
        h = self.norm(query + found)
        result: Tensor = self.out_norm(h + self.out(h).relu())
        return result

    def _split(self, t: Tensor, lead: torch.Size) -> Tensor:
        """(..., n, D) to (b, heads, n, D / heads)."""
        parts = t.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return parts.expand(*lead, *parts.shape[-3:]).flatten(0, len(lead) - 1)


class PointEncoder(nn.Module):
    """One vector for each point (x, y); with ``attentive`` the points then attend to each other."""

    def __init__(self, inputs: int, width: int, depth: int, heads: int, scale: str, attentive: bool) -> None:
        super().__init__()
        self.net = mlp(inputs, width, width, depth - 2 if attentive else depth)
        self.attention = AttentionBlock(width, heads, scale) if attentive else None

    def forward(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """(..., n, inputs) to (..., n, width)."""
        h: Tensor = self.net(points)
        return h if self.attention is None else self.attention(h.relu(), h.relu(), mask=mask)


class ContextEncoder(nn.Module):
    """Encodes a context set in two steps: features of its points, then from features a vector for each target.

    Pseudo contexts enter between the steps: they are features. Of ``encoders`` encoders each pools its features by
    their mean. If ``attentive``, the first one's features are keys and values, to which the targets attend.
    """

    def __init__(
        self, x_dim: int, y_dim: int, width: int, heads: int, scale: str, attentive: bool, encoders: int
    ) -> None:
        super().__init__()
        self.width, self.attentive = width, attentive
        self.points = nn.ModuleList(
            PointEncoder(x_dim + y_dim, width, 4, heads, scale, attentive) for _ in range(encoders)
        )
        self.keys = mlp(x_dim, width, width, 2) if attentive else None
        self.cross = AttentionBlock(width, heads, scale) if attentive else None
        self.pools = nn.ModuleList(mlp(width, width, width, 2) for _ in range(encoders - attentive))
        self.features = width * (encoders + attentive)  # of one point
        self.outputs = width * encoders

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """The features of the points: (..., n, features)."""
        points = torch.cat([x, y], -1)
        found = [encoder(points, mask) for encoder in self.points]
        if self.keys is not None:
            found.insert(0, self.keys(x))
        return torch.cat(found, -1)

    def represent(self, features: Tensor, mask: Tensor | None, x: Tensor) -> Tensor:
        """What a set of features says at targets x (..., m, x_dim): (..., m, outputs), or (..., 1, outputs) if it says
        the same at all."""
        parts = features.split(self.width, -1)
        found = []
        if self.cross is not None:
            assert self.keys is not None
            found.append(self.cross(self.keys(x), parts[0], parts[1], mask))
            parts = parts[2:]
        for part, pool in zip(parts, self.pools, strict=True):
            pooled = pool(masked_mean(part, mask))[..., None, :]
            found.append(pooled.expand(*pooled.shape[:-2], x.shape[-2], -1) if self.attentive else pooled)
        return torch.cat(found, -1)


class Decoder(nn.Module):
    """Mean and standard deviation of y at every target, of its representation and x.

    The standard deviation is least + (1 - least) softplus: it stays above ``least``. The extra input may be left out.
    """

    def __init__(self, inputs: int, extra: int, x_dim: int, y_dim: int, width: int, least: float) -> None:
        super().__init__()
        self.least = least
        self.first = nn.Linear(inputs + x_dim, width)
        self.extra = nn.Linear(extra, width, bias=False) if extra else None
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * y_dim))

    def forward(self, h: Tensor, x: Tensor, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., m, inputs), (..., m, x_dim) and perhaps (..., m, extra) give two tensors (..., m, y_dim).

        The first layer's sum over [h, x] is taken apart: h and the extra input may be the same at all m, (..., 1, .).
        """
        of_h, of_x = self.first.weight.tensor_split([h.shape[-1]], 1)
        first = F.linear(h, of_h) + F.linear(x, of_x, self.first.bias)
        if self.extra is not None and extra is not None:
            first = first + self.extra(extra)
        mean, raw = self.rest(first).chunk(2, -1)
        return mean, self.least + (1 - self.least) * F.softplus(raw)
