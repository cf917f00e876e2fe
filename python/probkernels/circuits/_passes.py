"""Passes over the layers of a circuit. The queries are built from them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import sum_layer
from . import _layers
from .evaluator import Evaluator
from .evidence import Evidence
from .graph import Input, Sum
from .inputs import CELLS


def batches(circuit: Evaluator, evidence: Evidence) -> Iterator[Evidence]:
    """Splits a batch into pieces, each so small that the values of all units fit in memory. An empty batch gives one
    piece."""
    size = max(CELLS // sum(circuit.graph.units), 1)
    count = evidence.codes.shape[1]
    for start in range(0, max(count, 1), size):
        part = slice(start, start + size)
        values, missing = (None if t is None else t[:, part] for t in (evidence.values, evidence.missing))
        yield Evidence(evidence.codes[:, part].contiguous(), values, missing)


def nothing_known(circuit: Evaluator) -> Evidence:
    """One observation in which every variable is missing."""
    codes = torch.full((circuit.num_variables, 1), -1, dtype=torch.int32, device=circuit.categories.device)
    return Evidence(codes, torch.zeros(codes.shape, device=codes.device), torch.ones_like(codes, dtype=torch.bool))


def widths(circuit: Evaluator, layer: _layers.Layer) -> list[int]:
    """The number of units of child 0, 1, ... of the nodes of a layer."""
    node = circuit.graph.nodes[layer.nodes[0]]
    assert not isinstance(node, Input)
    return [circuit.graph.units[child] for child in node.children]


def add_exp_(into: Tensor, rows: Tensor, values: Tensor) -> None:
    """into[rows[r]] <- log(exp(into[rows[r]]) + exp(values[r])), rows in any number and order. No +inf."""
    distinct, places = rows.unique(return_inverse=True)
    if len(distinct) == len(rows):
        into[rows] = torch.logaddexp(into[rows], values)
        return
    old = into[distinct]
    wide = places.view(-1, *[1] * (into.ndim - 1)).expand_as(values)
    top = old.scatter_reduce(0, wide, values, "amax").clamp_min(torch.finfo(into.dtype).min)
    total = (old - top).exp_().index_add_(0, places, (values - top[places]).exp_())
    into[distinct] = total.log_().add_(top)


def log_grads(circuit: Evaluator, values: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """The backward pass in log space. Returns, for each input layer, the log of the derivative of the circuit's value
    with respect to the value of each unit, (V, K, B).

    ``values`` are the log values of all layers, from :meth:`Circuit.upward`, and ``weights`` the weights they were
    computed with. Unlike flows, the derivative is also right where a unit has value zero. Leaving an observed variable
    out needs this.
    """
    slopes = [torch.full_like(value, -math.inf) for value in values]
    slopes[-1].zero_()
    weight = reversed(weights)
    for index in reversed(range(len(values))):
        layer, kind = circuit.layers[index], circuit.kinds[index]
        if kind is Input:
            continue
        if kind is Sum:
            below = sum_layer(slopes[index], next(weight).transpose(1, 2).contiguous())
            shares = list(below.split(widths(circuit, layer), 1))
        else:
            shares = _shares(layer, slopes[index], values)
        for gather, share in zip(layer.children_of, shares, strict=True):
            for at, rows, piece in gather.back(share):
                add_exp_(slopes[at], rows, piece)
    return [slope for slope, kind in zip(slopes, circuit.kinds, strict=True) if kind is Input]


def _shares(layer: _layers.Layer, slope: Tensor, values: list[Tensor]) -> list[Tensor]:
    """Log derivatives that a layer of products passes to child 0, 1, ...: its own log derivative plus the log values of
    the other children."""
    parts = [gather(values) for gather in layer.children_of]
    if layer.outer:
        left, right = parts
        pairs = slope.unflatten(1, (left.shape[1], right.shape[1]))
        return [(pairs + right.unsqueeze(1)).logsumexp(2), (pairs + left.unsqueeze(2)).logsumexp(1)]
    before = [slope]
    for part in parts[:-1]:
        before.append(before[-1] + part)
    shares = [before[-1]]
    after = parts[-1]
    for part, so_far in zip(parts[-2::-1], before[-2::-1], strict=True):
        shares.append(so_far + after)
        after = after + part
    return shares[::-1]


def linear_upward(circuit: Evaluator, leaves: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The root's value (B,) for input values that are not logarithms and may be negative."""
    values: list[Tensor] = []
    leaf, weight = iter(leaves), iter(weights)
    for layer, kind in zip(circuit.layers, circuit.kinds, strict=True):
        if kind is Input:
            values.append(next(leaf))
        elif kind is Sum:
            values.append(next(weight) @ _layers.concatenate(layer, values))
        else:
            parts = [gather(values) for gather in layer.children_of]
            if layer.outer:
                values.append((parts[0].unsqueeze(2) * parts[1].unsqueeze(1)).flatten(1, 2))
            else:
                values.append(math.prod(parts[1:], start=parts[0]))
    return values[-1][0, 0]


def max_upward(circuit: Evaluator, leaves: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Like :meth:`Circuit.upward`, but each sum takes its largest term instead of the sum."""
    values: list[Tensor] = []
    leaf, weight = iter(leaves), iter(weights)
    for layer, kind in zip(circuit.layers, circuit.kinds, strict=True):
        if kind is Input:
            values.append(next(leaf))
        elif kind is Sum:
            values.append(_largest(_layers.concatenate(layer, values), next(weight).log()))
        else:
            values.append(_layers.multiply(layer, values))
    return values


def _largest(x: Tensor, log_weights: Tensor) -> Tensor:
    """x (G, I, B), log_weights (G, O, I) -> (G, O, B): max over i of their sum, a few i at a time."""
    g, o, width = log_weights.shape
    step = max(CELLS // max(g * o * x.shape[2], 1), 1)
    best = x.new_full((g, o, x.shape[2]), -math.inf)
    for start in range(0, width, step):
        i = slice(start, start + step)
        best = torch.maximum(best, (log_weights[:, :, i, None] + x[:, None, i]).amax(2))
    return best
