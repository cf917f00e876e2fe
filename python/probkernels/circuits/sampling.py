"""Samples and most probable completions, by walks from the root to the inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core import checks
from .._core.checks import describe
from .._core.errors import message
from . import _layers
from ._passes import batches, max_upward, nothing_known, widths
from .evaluator import Evaluator
from .evidence import Evidence
from .graph import Input, Sum
from .inputs import CELLS, draw
from .queries import require_possible

# Of pairs of a sum unit and an item: weights (P, I) and log values of what they mix (P, I) -> (P,), the edge to follow.
# Without evidence all values are one, and None stands for their logarithms.
Choice = Callable[[Tensor, Tensor | None], Tensor]


def descend(
    circuit: Evaluator, weights: list[Tensor], values: list[Tensor] | None, item: Tensor, choose: Choice
) -> list[Tensor]:
    """Walks from the root down, along one edge of each sum and all edges of each product.

    A walk reaches each node at most once, because the children of a product have disjoint scopes.

    Args:
        weights: weights of each sum layer.
        values: log values of each layer, (G, K, B).
        item: (N,), the item (0 .. B - 1) of each walk.

    Returns:
        For each input layer (V, N): the unit that each walk reached, -1 where it reached none.
    """
    reached = [
        torch.full((len(layer.nodes), len(item)), -1, dtype=torch.int32, device=item.device) for layer in circuit.layers
    ]
    reached[-1].zero_()
    weight = reversed(weights)
    for index in reversed(range(len(reached))):
        layer, kind, units = circuit.layers[index], circuit.kinds[index], reached[index]
        if kind is Input:
            continue
        if kind is Sum:
            inputs = None if values is None else _layers.concatenate(layer, values)
            edges = _edges(units, next(weight), inputs, item, choose)
            parts = _by_child(edges, widths(circuit, layer))
        elif layer.outer:
            right = widths(circuit, layer)[1]
            parts = [torch.where(units < 0, -1, units // right), torch.where(units < 0, -1, units % right)]
        else:
            parts = [units] * len(layer.children_of)
        for gather, part in zip(layer.children_of, parts, strict=True):
            for at, rows, piece in gather.back(part):
                reached[at].index_add_(0, rows, piece + 1)  # one walk comes to a node once, by whatever parent
    return [units for units, kind in zip(reached, circuit.kinds, strict=True) if kind is Input]


def _edges(units: Tensor, weights: Tensor, inputs: Tensor | None, item: Tensor, choose: Choice) -> Tensor:
    """The edge that each walk takes from each node of a sum layer, (G, N). -1 if the walk does not reach the node."""
    row, walk = (units >= 0).nonzero(as_tuple=True)
    unit = units[row, walk].long()
    edges = torch.full_like(units, -1)
    step = max(CELLS // weights.shape[2], 1)
    for start in range(0, len(row), step):
        r, w, u = (t[start : start + step] for t in (row, walk, unit))
        edges[r, w] = choose(weights[r, u], None if inputs is None else inputs[r, :, item[w]]).int()
    return edges


def _by_child(edges: Tensor, widths: list[int]) -> list[Tensor]:
    """Splits edges by child: the index of the child's unit, or -1 if the edge leads to another child."""
    parts, start = [], 0
    for width in widths:
        here = (edges >= start) & (edges < start + width)
        parts.append(torch.where(here, edges - start, -1))
        start += width
    return parts


# --- sampling ---


@torch.no_grad()
def sample(
    circuit: Evaluator,
    n: int,
    given: Tensor | None,
    missing: Tensor | None,
    seed: int | None,
    generator: torch.Generator | None,
) -> Tensor:
    """See :meth:`Circuit.sample`."""
    op = "Circuit.sample"
    checks.integer(op, "n", n, 0)
    if seed is not None and generator is not None:
        raise ValueError(message(op, "seed", "a seed or a generator", "both"))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    if given is None:
        if missing is not None:
            raise ValueError(message(op, "missing", "None where nothing is given", describe(missing)))
        return _draws(circuit, nothing_known(circuit), n, None, generator)[:, 0]
    evidence, found, first = circuit.evidence(given, missing), [], 0
    _check_holds(op, "given", circuit, given, missing)
    for part in batches(circuit, evidence):
        count = part.codes.shape[1]
        values = circuit.upward([layer(part) for layer in circuit.inputs], circuit.weights())
        require_possible(op, values[-1][0, 0], first=first)
        found.append(_draws(circuit, part, n, values, generator))
        first += count
    drawn = torch.cat(found, 1).to(given.device)
    known = torch.ones_like(given, dtype=torch.bool) if missing is None else ~missing.to(given.device)
    return torch.where(known, given, drawn.to(given.dtype))


def _draws(
    circuit: Evaluator, evidence: Evidence, n: int, values: list[Tensor] | None, generator: torch.Generator | None
) -> Tensor:
    """(n, B, D), int64 if all variables are discrete. Entries of observed variables have no meaning."""

    def choose(weights: Tensor, inputs: Tensor | None) -> Tensor:
        if inputs is None:
            return draw(weights, generator)
        log_p = weights.double().log() + inputs
        return draw((log_p - log_p.amax(1, keepdim=True)).exp(), generator)

    weights = circuit.weights()
    dtype = torch.int64 if all(circuit.is_discrete) else weights[0].dtype if weights else torch.get_default_dtype()
    count = evidence.codes.shape[1]
    missing = _missing(evidence)
    x = torch.zeros(n, count, circuit.num_variables, dtype=dtype, device=missing.device)
    step = max(CELLS // (len(circuit.graph.nodes) * max(count, 1)), 1)
    for some in x.split(step):
        item = torch.arange(count, device=x.device).repeat(len(some))
        out = some.flatten(0, 1)  # a view
        for layer, units in zip(circuit.inputs, descend(circuit, weights, values, item, choose), strict=True):
            wanted = (units >= 0) & missing[layer.variables][:, item]
            row, walk = wanted.nonzero(as_tuple=True)
            out[walk, layer.variables[row]] = layer.sample(row, units[row, walk].long(), generator).to(dtype)
    return x


def _check_holds(op: str, name: str, circuit: Evaluator, x: Tensor, missing: Tensor | None) -> None:
    """Raises if the dtype of x cannot hold each category of each missing variable."""
    if missing is None:
        return
    if x.dtype.is_floating_point:
        largest = int(2 / torch.finfo(x.dtype).eps)  # all whole numbers up to here are exact
    else:
        largest = 1 if x.dtype is torch.bool else torch.iinfo(x.dtype).max
    drawn = missing.reshape(-1, circuit.num_variables).any(0).to(circuit.categories.device)
    wrong = ((circuit.categories - 1 > largest) & drawn).nonzero()
    if len(wrong):
        variable = int(wrong[0])
        expected = f"a dtype that holds 0 .. {int(circuit.categories[variable]) - 1} of variable {variable}"
        raise TypeError(message(op, name, expected, str(x.dtype), "the result has this dtype; convert it first"))


def _missing(evidence: Evidence) -> Tensor:
    return torch.zeros_like(evidence.codes, dtype=torch.bool) if evidence.missing is None else evidence.missing


# --- the most probable completion ---


@torch.no_grad()
def mpe(circuit: Evaluator, x: Tensor, missing: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :meth:`Circuit.mpe`."""
    evidence, weights = circuit.evidence(x, missing), circuit.weights()
    _check_holds("Circuit.mpe", "x", circuit, x, missing)
    best = [layer.best() for layer in circuit.inputs]  # (V, K) each: value, log value
    completed, log_values, first = x.clone(), [], 0
    for part in batches(circuit, evidence):
        unknown = _missing(part)
        count = unknown.shape[1]
        leaves = [
            torch.where(unknown[layer.variables].unsqueeze(1), top.unsqueeze(2), layer(part))
            for layer, (_, top) in zip(circuit.inputs, best, strict=True)
        ]
        values = max_upward(circuit, leaves, weights)
        require_possible("Circuit.mpe", values[-1][0, 0], first=first)
        log_values.append(values[-1][0, 0])
        out = completed[first : first + count]
        reached = descend(circuit, weights, values, torch.arange(count, device=unknown.device), _likeliest)
        for layer, (value, _), units in zip(circuit.inputs, best, reached, strict=True):
            row, item = ((units >= 0) & unknown[layer.variables]).nonzero(as_tuple=True)
            filled = value[row, units[row, item].long()]
            out[item.to(x.device), layer.variables[row].to(x.device)] = filled.to(x)
        first += count
    return completed, torch.cat(log_values)


def _likeliest(weights: Tensor, inputs: Tensor | None) -> Tensor:
    assert inputs is not None
    return (weights.log() + inputs).argmax(1)
