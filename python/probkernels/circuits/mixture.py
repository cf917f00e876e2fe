"""Mixtures of circuits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .circuit import Circuit
from .graph import Graph, Input, Node, Sum
from .nodes import Named, assemble, by_sum, input_parameters


def mixture(circuits: Sequence[Circuit], weights: Sequence[float] | Tensor | None = None) -> Circuit:
    """A mixture: one circuit whose distribution is the weighted mean of the given circuits' distributions.

    The parameters are copied. :class:`EM` then trains all components together. To classify, or to sample from one
    class, keep the circuits separate.

    Args:
        circuits: at least one circuit. All have the same variables with the same alphabets.
        weights: positive weight of each circuit. They are normalized. By default all are equal.

    Raises:
        TypeError: an entry is not a circuit.
        ValueError: there is no circuit, the circuits' variables or alphabets differ, or the weights are not positive or
            not one for each circuit.

    Example:
        >>> import torch
        >>> from probkernels.circuits import factorized, mixture
        >>> zeros, ones = (factorized(torch.full((4, 3), v), categories=2, pseudocount=0.0) for v in (0, 1))
        >>> mixture([zeros, ones], weights=[3, 1]).log_prob(torch.tensor([[0, 0, 0], [1, 1, 1]])).exp().detach()
        tensor([0.7500, 0.2500])
    """
    _check(circuits)
    share = torch.ones(len(circuits)) if weights is None else torch.as_tensor(weights, dtype=torch.float32).cpu()
    if share.shape != (len(circuits),) or not (share.isfinite() & (share > 0)).all():
        raise ValueError(message("mixture", "weights", f"{len(circuits)} positive numbers", f"{weights!r}"))
    nodes: list[Node] = []
    roots: list[int] = []
    all_weights: dict[int, Tensor] = {}
    all_inputs: dict[int, Named] = {}
    for circuit in circuits:
        offset = len(nodes)
        for node in circuit.graph.nodes:
            moved = (
                node if isinstance(node, Input) else replace(node, children=tuple(c + offset for c in node.children))
            )
            nodes.append(moved)
        roots.append(len(nodes) - 1)
        all_weights |= {place + offset: w.detach() for place, w in by_sum(circuit, circuit.weights()).items()}
        all_inputs |= {place + offset: named for place, named in input_parameters(circuit).items()}
    nodes.append(Sum(tuple(roots), units=1))
    all_weights[len(nodes) - 1] = (share / share.sum())[None]
    return assemble(Graph(nodes), all_weights, all_inputs, circuits[0])


def _check(circuits: Sequence[Circuit]) -> None:
    if len(circuits) == 0:
        raise ValueError(message("mixture", "circuits", "at least one circuit", "none"))
    for i, circuit in enumerate(circuits):
        if not isinstance(circuit, Circuit):
            raise TypeError(message("mixture", f"circuits[{i}]", "a Circuit", checks.describe(circuit)))
        if circuit.num_variables != circuits[0].num_variables:
            wanted = f"{circuits[0].num_variables} variables, as in the first"
            raise ValueError(message("mixture", f"circuits[{i}]", wanted, f"{circuit.num_variables}"))
