"""Checks from the structure whether a circuit is deterministic: at most one edge of each sum is ever nonzero."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import Graph, Input, Product, Sum

# Of each variable on which a node's units depend: (K, C) bool, the categories at which unit k may be nonzero. A
# variable that is not listed restricts no unit.
Support = dict[int, Tensor]


def is_deterministic(graph: Graph) -> bool:
    """Whether any two edges of each sum unit lead to units of disjoint supports.

    The check is sufficient, not necessary. It bounds the support of each variable from the indicators and ignores zeros
    that were learned.
    """
    supports: list[Support] = []
    for node in graph.nodes:
        if isinstance(node, Input):
            own = node.family.support()
            supports.append({} if own is None else {node.variable: own})
        elif isinstance(node, Product):
            supports.append(_of_product(graph, node, supports))
        else:
            found = _of_sum(graph, node, supports)
            if found is None:
                return False
            supports.append(found)
    return True


def _of_product(graph: Graph, node: Product, supports: list[Support]) -> Support:
    if not node.outer:
        return {v: s for child in node.children for v, s in supports[child].items()}
    first, second = node.children
    left = {v: s.repeat_interleave(graph.units[second], 0) for v, s in supports[first].items()}
    return left | {v: s.repeat(graph.units[first], 1) for v, s in supports[second].items()}


def _of_sum(graph: Graph, node: Sum, supports: list[Support]) -> Support | None:
    """None if two edges of one unit may both be nonzero."""
    units = [graph.units[child] for child in node.children]
    width = sum(units)
    edge_mask = torch.ones(node.units, width) if node.edge_mask is None else torch.tensor(node.edge_mask)
    edge_mask = edge_mask.float()  # whatever torch's default dtype is
    meet = torch.ones(width, width, dtype=torch.float32)  # whether two inputs may both be nonzero
    below: Support = {}
    for variable in {v for child in node.children for v in supports[child]}:
        below[variable] = _concatenated(variable, [supports[child] for child in node.children], units)
        allowed = below[variable].float()
        meet *= (allowed @ allowed.t() > 0).float()
    meet.fill_diagonal_(0.0)
    if ((edge_mask @ meet) * edge_mask).any():
        return None
    unions = {v: edge_mask @ allowed.float() > 0 for v, allowed in below.items()}
    return {v: union for v, union in unions.items() if not union.all()}


def _concatenated(variable: int, supports: list[Support], units: list[int]) -> Tensor:
    size = next(s[variable].shape[1] for s in supports if variable in s)
    full = [torch.ones(count, size, dtype=torch.bool) for count in units]
    return torch.cat([s.get(variable, one) for s, one in zip(supports, full, strict=True)])
