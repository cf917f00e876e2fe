"""Back-propagation through all layers, and a linear classifier without the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import local_learning as ll
from ...training import EarlyStopping, minimize
from .model import Data, gcn


class Network(nn.Module):
    """Layers with ReLU between them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: object, graph: ll.Graph) -> Tensor:
        """Logits of all nodes."""
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, graph).relu()
        return last(x, graph)


def back_propagation(data: Data, depth: int, epochs: int, patience: int) -> float:
    """Trains a network of graph convolutions; returns its accuracy on test nodes in percent."""
    net = Network(gcn(data.x.shape[1], depth, data.classes))
    graph, x = ll.Graph(data.edges, len(data.y)), ll.graph.as_features(data.x)
    return _trained(net, lambda: net(x, graph), data, epochs, patience)


def linear(data: Data, epochs: int, patience: int) -> float:
    """Trains a linear classifier of a node's own features; returns its accuracy on test nodes in percent."""
    net = nn.Linear(data.x.shape[1], data.classes)
    x = ll.graph.as_features(data.x)
    return _trained(net, lambda: x @ net.weight.t() + net.bias, data, epochs, patience)


def _trained(net: nn.Module, logits: Callable[[], Tensor], data: Data, epochs: int, patience: int) -> float:
    stopping, best = EarlyStopping(patience), {}

    def right(rows: Tensor) -> float:
        with torch.no_grad():
            return 100 * float((logits()[rows].argmax(1) == data.y[rows]).double().mean())

    def after(step: int, loss: float) -> bool:
        if step % 2 and stopping.improved(step // 2, -right(data.val)):
            best.update({name: value.clone() for name, value in net.state_dict().items()})
        return stopping.stop

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=5e-4)
    minimize(
        lambda step: F.cross_entropy(logits()[data.train], data.y[data.train]), optimizer, epochs, after=after,
        name="back_propagation",
    )  # fmt: skip
    net.load_state_dict(best)
    return right(data.test)
