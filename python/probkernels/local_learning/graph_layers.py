"""Layers on graphs: GCN, GraphSAGE with means, GAT. None needs another package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .graph import Features, Graph, as_features, graph_of


class GraphLayer(nn.Module):
    """The base of the built-in layers: they take sparse features, and a :class:`Graph` in place of ``edge_index``.

    Args:
        in_features: features of a node.
        out_features: outputs of a node.

    Raises:
        TypeError, ValueError: a width is not a whole number, or less than 1.

    Example:
        >>> from probkernels.local_learning import GAT, GCN, SAGE, GraphLayer
        >>> all(issubclass(layer, GraphLayer) for layer in (GCN, SAGE, GAT))
        True
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        kind = type(self).__name__
        self.in_features = checks.integer(kind, "in_features", in_features)
        self.out_features = checks.integer(kind, "out_features", out_features)

    def extra_repr(self) -> str:
        """Both widths, for ``repr``."""
        return f"{self.in_features}, {self.out_features}"

    def _given(self, x: Tensor | Features, edge_index: Tensor | Graph) -> tuple[Features, Graph]:
        kind, features = type(self).__name__, as_features(x)
        if len(features.shape) != 2 or features.shape[1] != self.in_features:
            wanted = f"shape (n, {self.in_features})"
            raise ValueError(message(kind, "x", wanted, f"shape {tuple(features.shape)}", "the layer's in_features"))
        own = next(self.parameters()).dtype
        if features.dtype != own and not torch.is_autocast_enabled(next(self.parameters()).device.type):
            raise TypeError(message(kind, "x", f"dtype {own}, that of the layer", str(features.dtype)))
        return features, graph_of(features, edge_index, kind)


def _weight(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))


class GCN(GraphLayer):
    """A graph convolution Â X W + b (Kipf, Welling, ICLR 2017): self loops, symmetric normalization.

    Sparse features are multiplied by W first, then by Â. Self loops of ``edge_index`` are replaced by one each; an
    isolated node sees itself alone.

    Args:
        in_features: features of a node.
        out_features: outputs of a node.

    Shape:
        ``x`` (n, in_features), dense, CSR or COO; ``edge_index`` (2, E) or a :class:`Graph`; result
        (n, out_features).

    Raises:
        ValueError: ``x`` is not (n, in_features), or ``edge_index`` names a node that does not exist.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import GCN
        >>> layer = GCN(4, 2)
        >>> layer(torch.ones(3, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 2])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = _weight(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor | Features, edge_index: Tensor | Graph) -> Tensor:
        """The layer's outputs."""
        features, graph = self._given(x, edge_index)
        return graph.gcn(features.dtype) @ (features @ self.weight.t()) + self.bias

    def propagate(self, x: Tensor, edge_index: Tensor | Graph) -> Tensor:
        """Â X, the part without parameters: (n, in_features)."""
        features, graph = self._given(x, edge_index)
        return graph.gcn(features.dtype) @ features.dense()

    def transform(self, propagated: Tensor) -> Tensor:
        """The layer's outputs from :meth:`propagate`'s."""
        return F.linear(propagated, self.weight, self.bias)


class SAGE(GraphLayer):
    """GraphSAGE with means (Hamilton et al., NeurIPS 2017): W₁ · mean over the senders + b + W₂ · the node itself.

    A node to which no edge leads has a mean of zero. A self loop makes a node one of its own senders.

    Args:
        in_features: features of a node.
        out_features: outputs of a node.

    Shape:
        As :class:`GCN`.

    Raises:
        ValueError: as :class:`GCN`.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import SAGE
        >>> layer = SAGE(4, 2)
        >>> layer(torch.ones(3, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 2])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.neighbor_weight = _weight(out_features, in_features)
        self.self_weight = _weight(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor | Features, edge_index: Tensor | Graph) -> Tensor:
        """The layer's outputs."""
        features, graph = self._given(x, edge_index)
        sent, own = features @ self.neighbor_weight.t(), features @ self.self_weight.t()
        return graph.mean(features.dtype) @ sent + own + self.bias

    def propagate(self, x: Tensor, edge_index: Tensor | Graph) -> Tensor:
        """The means and the features themselves, the part without parameters: (n, 2 in_features)."""
        features, graph = self._given(x, edge_index)
        own = features.dense()
        return torch.cat([graph.mean(features.dtype) @ own, own], 1)

    def transform(self, propagated: Tensor) -> Tensor:
        """The layer's outputs from :meth:`propagate`'s."""
        return F.linear(propagated, torch.cat([self.neighbor_weight, self.self_weight], 1), self.bias)


class GAT(GraphLayer):
    """Graph attention (Veličković et al., ICLR 2018): heads side by side, leaky ReLU of slope 0.2, self loops.

    Its propagation depends on its parameters, so it cannot be cached.

    Args:
        in_features: features of a node.
        out_features: outputs of a node, all heads together.
        heads: number of heads, a divisor of ``out_features``.

    Shape:
        As :class:`GCN`.

    Raises:
        ValueError: as :class:`GCN`, or ``heads`` does not divide ``out_features``.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import GAT
        >>> layer = GAT(4, 8, heads=2)
        >>> layer(torch.ones(3, 4), torch.tensor([[0, 1], [1, 0]])).shape
        torch.Size([3, 8])
    """

    def __init__(self, in_features: int, out_features: int, heads: int = 4) -> None:
        super().__init__(in_features, out_features)
        self.heads = checks.integer("GAT", "heads", heads)
        if out_features % heads:
            raise ValueError(message("GAT", "heads", f"a divisor of out_features, {out_features}", str(heads)))
        self.weight = _weight(out_features, in_features)
        self.source_attention = _weight(heads, out_features // heads)
        self.target_attention = _weight(heads, out_features // heads)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor | Features, edge_index: Tensor | Graph) -> Tensor:
        """The layer's outputs."""
        features, graph = self._given(x, edge_index)
        source, target = graph.looped()
        values = (features @ self.weight.t()).view(-1, self.heads, self.out_features // self.heads)
        sends, takes = (values * self.source_attention).sum(2), (values * self.target_attention).sum(2)
        scores = F.leaky_relu(sends[source] + takes[target], 0.2)
        shares = _softmax(scores, target, graph.num_nodes)
        sent = shares[:, :, None] * values[source]  # under autocast of another dtype than the values
        found = sent.new_zeros(values.shape).index_add(0, target, sent)
        return found.flatten(1) + self.bias


def _softmax(scores: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Softmax of (E, heads) over the edges that lead to one node."""
    index = target[:, None].expand_as(scores)
    start = scores.new_full((nodes, scores.shape[1]), float("-inf"))
    largest = start.scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - largest[target]).exp()
    return weights / weights.new_zeros(largest.shape).index_add(0, target, weights)[target]
