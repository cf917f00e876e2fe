"""Parameters by node, and circuits made from the parameters of other circuits with units removed, copied or joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .circuit import Circuit
from .graph import Graph, Input, Node, Product, Sum
from .inputs import Inputs, noise_factors

Named = dict[str, Tensor]


def _layers_of(circuit: Circuit, kind: type) -> Iterator[list[int]]:
    """The nodes of each layer of one kind, in the order of ``circuit.sums`` or ``circuit.inputs``."""
    for layer, its_kind in zip(circuit.layers, circuit.kinds, strict=True):
        if its_kind is kind:
            yield layer.nodes


def by_sum(circuit: Circuit, layers: list[Tensor]) -> dict[int, Tensor]:
    """Splits the tensors (G, O, I) of all sum layers into one (O, I) for each sum node."""
    split = zip(_layers_of(circuit, Sum), layers, strict=True)
    return {place: tensor for nodes, layer in split for place, tensor in zip(nodes, layer, strict=True)}


def by_input(circuit: Circuit) -> dict[int, tuple[Inputs, int]]:
    """The layer of each input node and its row in that layer."""
    split = zip(_layers_of(circuit, Input), circuit.inputs, strict=True)
    return {place: (layer, row) for nodes, layer in split for row, place in enumerate(nodes)}


def input_parameters(circuit: Circuit) -> dict[int, Named]:
    """The layer's tensors for each input node. Units are the last axis, except in a Gaussian's buffers."""
    return {
        place: {name: tensor[row] for name, tensor in layer.state_dict().items()}
        for place, (layer, row) in by_input(circuit).items()
    }


def assemble(graph: Graph, weights: Mapping[int, Tensor], inputs: Mapping[int, Named], like: Circuit) -> Circuit:
    """A circuit with the given weights (O, I) of each sum node and the given parameters of each input node."""
    first = next(like.parameters(), None)
    circuit = Circuit(graph).to(device=like.categories.device, dtype=None if first is None else first.dtype)
    with torch.no_grad():
        for place, logits in by_sum(circuit, list(circuit.sums)).items():
            logits.copy_(weights[place].log())
        for place, named in input_parameters(circuit).items():
            for name, tensor in named.items():
                tensor.copy_(inputs[place][name])
    return circuit.train(like.training)


class Alignment:
    """Sets of nodes whose unit k means the same: a product and the nodes that it multiplies. In a latent tree a set is
    a latent variable, and its units are the states.

    of: the set of each node.
    fixed: sets whose units cannot be removed or copied: the root's set, sets with indicators, and sets in which an
    outer product meets other nodes.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        parent = list(range(len(graph.nodes)))

        def find(place: int) -> int:
            while parent[place] != place:
                parent[place] = parent[parent[place]]
                place = parent[place]
            return place

        for place, node in enumerate(graph.nodes):
            if isinstance(node, Product) and not node.outer:
                for child in node.children:
                    parent[find(child)] = find(place)
        self.of = [find(place) for place in range(len(graph.nodes))]
        self.members: dict[int, list[int]] = {}
        for place, name in enumerate(self.of):
            self.members.setdefault(name, []).append(place)
        self.outer = {place for place, node in enumerate(graph.nodes) if isinstance(node, Product) and node.outer}
        self.fixed = self._fixed()

    def _fixed(self) -> set[int]:
        nodes = self.graph.nodes
        fixed = {self.of[-1]}
        for place, node in enumerate(nodes):
            if isinstance(node, Input) and node.family.fixed_units is not None:
                fixed.add(self.of[place])
        for place in sorted(self.outer, reverse=True):
            if len(self.members[self.of[place]]) > 1 or self.of[place] in fixed:
                fixed.add(self.of[place])
                fixed |= {self.of[child] for child in nodes[place].children}  # type: ignore[union-attr]
        return fixed

    def free(self) -> list[int]:
        """The sets whose units can be chosen: neither fixed nor of an outer product, whose units follow from its
        children."""
        return [name for name in self.members if name not in self.fixed and name not in self.outer]

    def units(self, name: int) -> int:
        """The number of units of each node of a set."""
        return self.graph.units[name]


def rebuild(
    circuit: Circuit,
    origins: Mapping[int, Tensor],
    *,
    edges: Mapping[int, Tensor] | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Circuit:
    """Rebuilds a circuit with other units: unit j of each node of set ``s`` is a copy of unit ``origins[s][j]``.

    A unit that occurs in no ``origins`` entry is removed, and the remaining weights are normalized again. Copies share
    the weight of their original. Sets that ``origins`` does not mention stay. ``edges`` (O, I) bool says which edges of
    a sum node stay, by old units; sums that it does not mention keep all edges. ``noise`` multiplies the weights and
    probabilities of copies by normal numbers around 1 with that standard deviation.
    """
    graph = circuit.graph
    sources = _sources(Alignment(graph), origins)
    generator = torch.Generator().manual_seed(seed)
    weights = {place: w.detach().cpu() for place, w in by_sum(circuit, circuit.weights()).items()}
    parameters = input_parameters(circuit)
    layers = by_input(circuit)
    nodes: list[Node] = []
    new_inputs: dict[int, Named] = {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node, Input):
            nodes.append(Input(node.variable, len(sources[place]), node.family))
            learned = {name for name, _ in layers[place][0].named_parameters()}
            picked = {
                n: t[..., sources[place].to(t.device)] if n in learned else t for n, t in parameters[place].items()
            }
            new_inputs[place] = node.family.add_noise(picked, noise * _copied(sources[place]), generator)
        elif isinstance(node, Sum):
            columns = _columns(graph, node, sources)
            old = weights[place]
            edge_mask = old > 0 if edges is None or place not in edges else edges[place].cpu() & (old > 0)
            w, edge_mask = _picked(old, edge_mask, sources[place], columns)
            w = w * noise_factors(noise * (_copied(sources[place])[:, None] | _copied(columns)), generator).to(w)
            weights[place] = w / w.sum(1, keepdim=True)
            rows = None if edge_mask.all() else tuple(tuple(row) for row in edge_mask.tolist())
            nodes.append(Sum(node.children, len(sources[place]), rows))
        else:
            nodes.append(node)
    return assemble(Graph(nodes), weights, new_inputs, circuit)


def _sources(alignment: Alignment, origins: Mapping[int, Tensor]) -> list[Tensor]:
    """For each node, the old unit that each new unit is a copy of."""
    graph = alignment.graph
    sources: list[Tensor] = []
    for place, node in enumerate(graph.nodes):
        name = alignment.of[place]
        if isinstance(node, Product) and node.outer and name not in alignment.fixed:
            left, right = (sources[child] for child in node.children)
            sources.append((left[:, None] * graph.units[node.children[1]] + right).flatten())
        elif name in origins and name not in alignment.fixed:
            sources.append(origins[name].cpu())
        else:
            sources.append(torch.arange(graph.units[place]))
    return sources


def _columns(graph: Graph, node: Sum, sources: list[Tensor]) -> Tensor:
    """For each new edge of a sum, the old edge that it is a copy of."""
    found, offset = [], 0
    for child in node.children:
        found.append(sources[child] + offset)
        offset += graph.units[child]
    return torch.cat(found)


def _picked(old: Tensor, edge_mask: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and edges of the new units. Copies of a child share its weight."""
    copies = torch.bincount(columns, minlength=old.shape[1])
    new_mask = edge_mask[rows][:, columns]
    alone = ~new_mask.any(1, keepdim=True)  # every child has gone: all that are left take their place
    w = torch.where(new_mask, old[rows][:, columns], 0.0) / copies[columns]
    return torch.where(alone, 1.0, w), new_mask | alone


def _copied(origins: Tensor) -> Tensor:
    """Marks the new units that are one of several copies."""
    return torch.bincount(origins)[origins] > 1
