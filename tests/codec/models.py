"""Circuits of every kind that a program can be compiled from."""

from __future__ import annotations

import numpy as np
import torch
from probkernels.circuits import (
    Categorical,
    Circuit,
    Graph,
    Input,
    Product,
    Sum,
    Vtree,
    chow_liu,
    factorized,
    from_vtree,
    hclt,
    hclt_graph,
    mixture,
    quad_tree_graph,
)
from probkernels.circuits.nodes import assemble
from torch import Tensor

C, V = 5, 7
KINDS = ["hclt", "chow_liu", "factorized", "mixture", "hadamard", "outer", "quad_tree", "sums_of_sums"]


def rows(n: int, v: int = V) -> Tensor:
    return torch.randint(0, C, (n, v), dtype=torch.int32, generator=torch.Generator().manual_seed(1))


def model(kind: str) -> Circuit:
    families = [Categorical(C)] * V
    x = rows(60)
    if kind == "hclt":
        return hclt(x, latents=3)
    if kind == "chow_liu":
        return chow_liu(x)
    if kind == "factorized":
        return factorized(x)
    if kind == "mixture":
        return mixture([factorized(x), factorized(x[:30])])
    if kind == "quad_tree":
        graph = quad_tree_graph(2, 3, 3, Categorical(C))
    elif kind == "sums_of_sums":
        graph = sums_of_sums()
    else:
        units = {"inputs": 2, "outer": True} if kind == "outer" else {}
        graph = from_vtree(Vtree.balanced(range(V)), families, 3, **units)  # type: ignore[arg-type]
    circuit = Circuit(graph)
    circuit.reset(seed=2)
    return circuit


def sums_of_sums() -> Graph:
    """Everything that may happen within one scope: a sum of inputs of several nodes, Hadamard and outer products of the
    same children, a product of one child, and nodes used twice, also within their scope."""
    a, b, wide = Input(0, 2, Categorical(C)), Input(1, 2, Categorical(C)), Input(0, 3, Categorical(C))
    nodes = [
        a, b, wide, Sum((0, 2), 2), Product((3, 1)), Product((0, 1), outer=True), Sum((4, 5), 3), Product((6,)),
        Sum((7, 6), 1),
    ]  # fmt: skip
    return Graph(nodes)


def toy() -> Circuit:
    """The example of the paper's notes: D = 4, C = 3, M = 2, root 1 with children 0 and 2, and 3 below 2."""
    tables = {
        0: [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],
        1: [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]],
        2: [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]],
        3: [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]],
    }
    graph = hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, latents=2)
    weights, inputs = {}, {}
    for place, node in enumerate(graph.nodes):
        if isinstance(node, Input):
            inputs[place] = {"logits": torch.tensor(tables[node.variable]).T.log()}
        elif isinstance(node, Sum):
            last = place == len(graph.nodes) - 1
            weights[place] = torch.tensor([[0.6, 0.4]] if last else [[0.9, 0.1], [0.25, 0.75]])
    return assemble(graph, weights, inputs, Circuit(graph))


def alike_rows(n: int, seed: int = 0) -> np.ndarray:
    """(n, 6) uint8 below 5: neighbors are alike."""
    random_numbers = np.random.default_rng(seed)
    return np.minimum(np.cumsum(random_numbers.integers(0, 2, (n, 6)), 1), 4).astype(np.uint8)
