"""Small circuits of every shape, and what they mean: evaluated node by node in the linear domain, over all states."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

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
    chow_liu,
    factorized,
    hclt,
    hclt_graph,
)
from probkernels.circuits.families import Family
from torch import Tensor

# --- graphs ---


class _Builder:
    """Nodes for regions (sets of variables), each made once and shared by all that use it."""

    def __init__(self, seed: int, sizes: Sequence[int], units: int, structured: bool) -> None:
        self.random = random.Random(seed)
        self.sizes, self.units, self.structured = sizes, units, structured
        self.nodes: list[object] = []
        self.places: dict[tuple[int, ...], int] = {}

    def add(self, node: object) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def region(self, scope: tuple[int, ...]) -> int:
        """The place of a node of ``units`` units."""
        if scope not in self.places:
            self.places[scope] = self.input(scope[0]) if len(scope) == 1 else self.inner(scope)
        return self.places[scope]

    def input(self, variable: int) -> int:
        size = self.sizes[variable]
        if size == 0:
            return self.add(Input(variable, self.units, Gaussian()))
        kinds: list[Family] = [Categorical(size), DiscretizedLogistic(size), Indicator(size)]
        if size == 2:
            kinds.append(Bernoulli())
        picked = self.random.sample(kinds, self.random.choice([1, 2]))
        if picked == [kinds[0]]:
            return self.add(Input(variable, self.units, picked[0]))
        units = [size if isinstance(family, Indicator) else 2 for family in picked]
        return self.sum([self.add(Input(variable, k, family)) for k, family in zip(units, picked, strict=True)], units)

    def inner(self, scope: tuple[int, ...]) -> int:
        children, units = [], []
        cuts = self.random.sample(range(1, len(scope)), 1 if self.structured else min(2, len(scope) - 1))
        for cut in cuts:
            order = list(scope) if self.structured else self.random.sample(scope, len(scope))
            parts = self.region(tuple(sorted(order[:cut]))), self.region(tuple(sorted(order[cut:])))
            for outer in self.random.choice([(True,), (False,), (True, False)]):
                children.append(self.add(Product(parts, outer)))
                units.append(self.units**2 if outer else self.units)
        return self.sum(children, units)

    def sum(self, children: list[int], units: list[int], out: int | None = None) -> int:
        out, width = out or self.units, sum(units)
        kept = None
        if self.random.random() < 0.4:
            rows = [[self.random.random() < 0.6 for _ in range(width)] for _ in range(out)]
            for row in rows:
                row[self.random.randrange(width)] = True
            kept = tuple(map(tuple, rows))
        return self.add(Sum(tuple(children), out, kept))


def random_graph(seed: int, sizes: Sequence[int], units: int = 2, structured: bool = False) -> Graph:
    """A DAG over variables of the given alphabets, 0 for a continuous one, of mixed families and products."""
    builder = _Builder(seed, sizes, units, structured)
    top = builder.region(tuple(range(len(sizes))))
    builder.sum([top], [units], out=1)
    return Graph(builder.nodes)  # type: ignore[arg-type]


def split_graph() -> Graph:
    """Deterministic without being a Chow-Liu tree: where variable 0 is 0 the others are split in another way than where
    it is 1 or 2."""
    zero, rest = (True, False, False), (False, True, True)
    binary = Indicator(2)
    return Graph([
        Input(0, 3, Indicator(3)), Input(1, 2, binary), Input(2, 2, binary), Input(3, 2, binary),
        Sum((0,), 1, (zero,)), Sum((0,), 1, (rest,)),
        Sum((1,), 2), Sum((2,), 2), Sum((3,), 1),
        Product((1, 7)), Sum((9,), 1), Product((4, 10, 8)),
        Product((6, 3)), Sum((12,), 1), Sum((2,), 1), Product((5, 13, 14)),
        Sum((11, 15), 1),
    ])  # fmt: skip


def shaken(circuit: Circuit, seed: int = 0, scale: float = 1.0) -> Circuit:
    """The circuit in float64 with parameters far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    circuit = circuit.double()
    for p in circuit.parameters():
        p.data += scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return circuit


@functools.cache
def discrete() -> dict[str, Circuit]:
    """Circuits over few states, by name; shared, not to be changed."""
    x = torch.randint(0, 3, (60, 4), generator=torch.Generator().manual_seed(1))
    x[:, 1] = (x[:, 0] + (x[:, 2] == 2)) % 3
    x[:, 3] %= 2
    found = {f"dag{seed}": Circuit(random_graph(seed, (2, 3, 2, 3))) for seed in range(4)}
    found |= {f"vtree{seed}": Circuit(random_graph(seed, (3, 2, 3, 2), structured=True)) for seed in range(3)}
    found |= {"hclt": hclt(x, 3, categories=[3, 3, 3, 2]), "factorized": factorized(x), "chow_liu": chow_liu(x)}
    found["split"] = Circuit(split_graph())
    return {name: shaken(circuit, 3) for name, circuit in found.items()}


def sheet_hclt() -> Circuit:
    """The method's worked example: four variables of three values, latents of two states at variables 1 and 2."""
    circuit = Circuit(hclt_graph([1, -1, 1, 2], [Categorical(3)] * 4, latents=2)).double()
    leaves = torch.tensor([
        [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]],
        [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]], [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]],
    ], dtype=torch.float64)  # fmt: skip
    theta, prior = circuit.sums
    theta.data.copy_(torch.tensor([[[0.9, 0.1], [0.25, 0.75]]], dtype=torch.float64).log())
    prior.data.copy_(torch.tensor([[[0.6, 0.4]]], dtype=torch.float64).log())
    (layer,) = circuit.inputs
    layer.logits.data.copy_(leaves[layer.variables].transpose(1, 2).log())
    return circuit


# --- meaning ---


def node_values(circuit: Circuit, x: Tensor) -> list[Tensor]:
    """Values (K, B) of every node, no logarithms: the definition of a circuit, word by word."""
    inputs, weights = iter(circuit.inputs), iter(circuit.weights())
    of_layer = [next(inputs) if kind is Input else next(weights) if kind is Sum else None for kind in circuit.kinds]
    values: list[Tensor] = []
    for place, node in enumerate(circuit.graph.nodes):
        at, row = circuit.places[place]
        if isinstance(node, Input):
            values.append(_input_values(of_layer[at].log_table(), row, node.family, x[:, node.variable]))
            continue
        parts = [values[child] for child in node.children]
        if isinstance(node, Sum):
            values.append(of_layer[at][row] @ torch.cat(parts))
        elif node.outer:
            values.append(torch.stack([a * b for a in parts[0] for b in parts[1]]))
        else:
            values.append(torch.stack(parts).prod(0))
    return values


def _input_values(table: Tensor, row: int, family: Family, x: Tensor) -> Tensor:
    if family.discrete:
        return table[row].exp()[x.long()].t()
    location, log_scale = table[row]
    return torch.distributions.Normal(location[:, None], log_scale.exp()[:, None]).log_prob(x).exp()


def sizes(circuit: Circuit) -> list[int]:
    return [circuit.graph.families[v][0].categories for v in range(circuit.num_variables)]


def states(circuit: Circuit) -> Tensor:
    """All values that x can take, (n, D)."""
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes(circuit)]).view(-1, circuit.num_variables)


@torch.no_grad()
def joint(circuit: Circuit) -> Tensor:
    """p(x) of all states, an axis a variable."""
    return node_values(circuit, states(circuit))[-1][0].view(sizes(circuit))


def restricted(p: Tensor, x: Sequence[int], known: Sequence[bool]) -> Tensor:
    """p with the known variables at their values of x: a sum over the rest is the evidence's probability."""
    return p[tuple(slice(v, v + 1) if k else slice(None) for v, k in zip(x, known, strict=True))]
