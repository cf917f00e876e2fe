"""Groups the nodes of a graph into layers. A layer holds nodes of one depth, kind and shape and is evaluated at
once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .graph import Graph, Input, Product, Sum


class Gather(nn.Module):
    """Picks one node of each row from earlier layers: values of layers (G, K, B) -> (rows, K, B)."""

    order: Tensor

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        """``places``: (layer, row) of each wanted node."""
        super().__init__()
        self.layers = sorted({layer for layer, _ in places})
        rows = {layer: [row for at, row in places if at == layer] for layer in self.layers}
        self.slices = {layer: _as_slice(found) for layer, found in rows.items()}
        for layer, found in rows.items():
            self.register_buffer(f"rows_{layer}", torch.tensor(found), persistent=False)
        grouped = [i for layer in self.layers for i, (at, _) in enumerate(places) if at == layer]
        order = torch.empty(len(places), dtype=torch.int64)
        order[torch.tensor(grouped)] = torch.arange(len(places))
        self.in_order = grouped == sorted(grouped)
        self.register_buffer("order", order, persistent=False)

    def forward(self, values: Sequence[Tensor]) -> Tensor:
        """See the class."""
        pieces = [self._piece(layer, values[layer]) for layer in self.layers]
        found = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return found if self.in_order else found[self.order]

    def back(self, wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The reverse of :meth:`forward`: splits a tensor (rows, ...) by the layers that the rows were gathered from.

        Yields (layer, rows of that layer, their part of the tensor). A row that was gathered twice comes twice.
        """
        grouped = wanted if self.in_order else wanted[self.order.argsort()]
        start = 0
        for layer in self.layers:
            rows = self.get_buffer(f"rows_{layer}")
            yield layer, rows, grouped[start : start + len(rows)]
            start += len(rows)

    def _piece(self, layer: int, value: Tensor) -> Tensor:
        where = self.slices[layer]
        return value[self.get_buffer(f"rows_{layer}")] if where is None else value[where]


def _as_slice(rows: Sequence[int]) -> slice | None:
    run = list(range(rows[0], rows[0] + len(rows)))
    return slice(run[0], run[-1] + 1) if list(rows) == run else None


class Layer(nn.Module):
    """Nodes evaluated together. ``children[j]`` gathers child j of each; input layers have none."""

    children_of: list[Gather]  # a module list

    def __init__(self, nodes: Sequence[int], children: Sequence[Gather], outer: bool = False) -> None:
        super().__init__()
        self.nodes, self.outer = list(nodes), outer
        self.children_of = nn.ModuleList(children)  # type: ignore[assignment]


@dataclass(frozen=True)
class Plan:
    """All layers in order of evaluation, inputs first. ``places`` gives the layer and row of each node of the graph."""

    layers: list[Layer]
    kinds: list[type]
    places: list[tuple[int, int]]


def plan(graph: Graph) -> Plan:
    """Nodes with equal keys share a layer; keys sort by depth."""
    depth: list[int] = []
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for place, node in enumerate(graph.nodes):
        depth.append(0 if isinstance(node, Input) else 1 + max(depth[c] for c in node.children))
        groups.setdefault((depth[place], *_key(graph, place)), []).append(place)
    places: list[tuple[int, int]] = [(0, 0)] * len(graph.nodes)
    layers, kinds = [], []
    for index, key in enumerate(sorted(groups, key=lambda key: key[0])):  # type: ignore[arg-type, return-value]
        members = groups[key]
        for row, place in enumerate(members):
            places[place] = index, row
        first = graph.nodes[members[0]]
        width = 0 if isinstance(first, Input) else len(first.children)
        gathers = [Gather([places[graph.nodes[m].children[j]] for m in members]) for j in range(width)]  # type: ignore[union-attr]
        layers.append(Layer(members, gathers, isinstance(first, Product) and first.outer))
        kinds.append(type(first))
    return Plan(layers, kinds, places)


def _key(graph: Graph, place: int) -> tuple[Hashable, ...]:
    node = graph.nodes[place]
    if isinstance(node, Input):
        return "input", node.family, node.units
    units = tuple(graph.units[child] for child in node.children)
    if isinstance(node, Sum):
        return "sum", node.units, units
    return "product", node.outer, units


def multiply(layer: Layer, values: Sequence[Tensor]) -> Tensor:
    """Log values (G, K, B) of a layer of products: sums over the children."""
    parts = [gather(values) for gather in layer.children_of]
    if layer.outer:
        left, right = parts
        return (left.unsqueeze(2) + right.unsqueeze(1)).flatten(1, 2)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def concatenate(layer: Layer, values: Sequence[Tensor]) -> Tensor:
    """Log values (G, I, B) of all children's units of a layer of sums."""
    parts = [gather(values) for gather in layer.children_of]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def edge_mask(graph: Graph, layer: Layer) -> Tensor | None:
    """(G, O, I): which weights of a layer of sums are edges; None if all are."""
    nodes = [graph.nodes[place] for place in layer.nodes]
    if all(isinstance(node, Sum) and node.edge_mask is None for node in nodes):
        return None
    masks = []
    for node in nodes:
        assert isinstance(node, Sum)
        width = sum(graph.units[child] for child in node.children)
        masks.append(
            torch.ones(node.units, width, dtype=torch.bool) if node.edge_mask is None else torch.tensor(node.edge_mask)
        )
    return torch.stack(masks)
