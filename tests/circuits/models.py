"""Circuits and data that several tests of learning use."""

from __future__ import annotations

import random

import torch
from probkernels.circuits import (
    Bernoulli,
    Categorical,
    Circuit,
    DiscretizedLogistic,
    Gaussian,
    Graph,
    Indicator,
    Input,
    Product,
    Sum,
    hclt_graph,
)
from probkernels.circuits.families import Family
from probkernels.circuits.graph import Node
from torch import Tensor


def toy() -> Circuit:
    """The latent tree of the research notes: D = 4, C = 3, M = 2, root 1 with children 0 and 2, and 3 below 2."""
    circuit = Circuit(hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, 2)).double()
    tables = [
        [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],
        [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]],
        [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]],
        [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]],
    ]
    with torch.no_grad():
        for layer in circuit.inputs:
            for row, variable in enumerate(layer.variables.tolist()):
                layer.logits[row] = torch.tensor(tables[variable], dtype=torch.float64).t().log()
        for logits in circuit.sums:
            p = [[0.6, 0.4]] if logits.shape[1] == 1 else [[0.9, 0.1], [0.25, 0.75]]
            logits[0] = torch.tensor(p, dtype=torch.float64).log()
    return circuit


def random_graph(families: list[Family], seed: int, *, outer: bool = False) -> Graph:
    """Random splits of the variables, several for a scope, joined by sums; inputs are shared between them."""
    rng = random.Random(seed)
    nodes: list[Node] = []
    inputs = []
    for variable, family in enumerate(families):
        units = family.categories if isinstance(family, Indicator) else 3
        nodes.append(Input(variable, units, family))
        if isinstance(family, Indicator):
            nodes.append(Sum((len(nodes) - 1,), 3))
        inputs.append(len(nodes) - 1)

    def region(variables: list[int], units: int) -> int:
        if len(variables) == 1 and units == 3:
            return inputs[variables[0]]
        products = []
        for _ in range(rng.choice([1, 2])):
            if len(variables) == 1:
                products.append(inputs[variables[0]])
                break
            order = rng.sample(variables, len(variables))
            cut = rng.randrange(1, len(order))
            parts = region(sorted(order[:cut]), 3), region(sorted(order[cut:]), 3)
            nodes.append(Product(parts, outer=outer and rng.random() < 0.5))
            products.append(len(nodes) - 1)
        nodes.append(Sum(tuple(products), units))
        return len(nodes) - 1

    region(list(range(len(families))), 1)
    return Graph(nodes)


DISCRETE: list[Family] = [Categorical(4), Bernoulli(), Indicator(3), DiscretizedLogistic(6), Categorical(2)]
MIXED: list[Family] = [Categorical(4), Gaussian(), DiscretizedLogistic(6), Gaussian(), Indicator(3)]


def data(families: list[Family], count: int, seed: int) -> Tensor:
    """Dependent variables: all lean on one hidden number."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(count, generator=generator)
    columns = []
    for variable, family in enumerate(families):
        noisy = hidden * (-1) ** variable + 0.3 * torch.randn(count, generator=generator)
        if family.discrete:
            rank = noisy.argsort().argsort()
            columns.append((rank * family.categories // count).double())
        else:
            columns.append(5 + 10 * noisy.double())
    x = torch.stack(columns, 1)
    return x.long() if all(f.discrete for f in families) else x


def holes(x: Tensor, seed: int, part: float = 0.2) -> Tensor:
    """Which values of x are missing, at random."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < part
